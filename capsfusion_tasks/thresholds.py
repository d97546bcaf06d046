"""The thresholds of validation's rules and of the gate, which stops units with too many rejected captions.

These settings are not in settings.py, so that code that only validates captions does not need pydantic-settings.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RuleSettings(BaseModel):
    """Thresholds of validation's rules. The docstring of each rule says how its default was chosen."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_words: int = Field(default=3, ge=0, description="Reject captions with fewer words than this.")
    min_characters: int = Field(default=6, ge=0, description="Reject captions with fewer characters than this.")
    max_words: int = Field(default=80, ge=1, description="Reject captions with more words than this.")
    repetition_max: float = Field(
        default=0.15,
        ge=0,
        le=1,
        description="Reject captions in which more than this share of the trigrams (three words in a row) repeat an"
        " earlier trigram.",
    )
    facts_min: int = Field(
        default=3,
        ge=1,
        description="Apply `fact_recall_min` if the raw caption has at least this many names and numbers.",
    )
    fact_recall_min: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Reject captions that keep less than this share of the raw caption's names and numbers.",
    )
    invented_max: int = Field(
        default=2,
        ge=0,
        description="Reject captions with more than this many names and numbers that are in neither source caption.",
    )
    restated_max: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Reject captions in which two sentences say the same: at least this share of the content words of"
        " the shorter sentence are also in the other sentence.",
    )
    unsupported_max: float = Field(
        default=0.65,
        gt=0,
        le=1,
        description="Reject captions that the source captions do not support. Such a caption meets two conditions."
        " First, at least this share of its content words, and at least `unsupported_min` words, are in neither source."
        " Second, it keeps at most a quarter of the synthetic caption's content words, or at least 80% of its own"
        " content words are in neither source.",
    )
    unsupported_min: int = Field(
        default=5,
        ge=1,
        description="Number of words in the first condition of `unsupported_max`. The flag `little_support` also uses"
        " this number.",
    )
    same_caption_max: int = Field(
        default=5,
        ge=1,
        description="Reject a caption that the model made for more than this many different raw captions.",
    )
    english: Literal["always", "latin", "never"] = Field(
        default="always",
        description="Captions that must be in English. `always`: all. `latin`: those whose synthetic caption is in"
        " Latin letters. `never`: none. Rules that depend on English apply only to these captions"
        " ([validation.md](validation.md#what-if-my-captions-are-not-in-english)).",
    )


class GateSettings(BaseModel):
    """Thresholds of the gate, which holds a unit (does not load it) if too many of its captions are rejected.

    ``validation/gate.py`` has the rule.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rejected_max: float = Field(
        default=0.25,
        ge=0,
        le=1,
        description="Do not load a unit if more than this share of its captions is rejected.",
    )
    drift_max: float = Field(
        default=6.0,
        gt=0,
        description="Do not load a unit if its share of rejected captions is more than this many standard errors above"
        " the share in recent units.",
    )
    min_rows: int = Field(default=100, ge=1, description="Always load units with fewer rows than this.")
    answer_hours: float = Field(
        default=24,
        ge=0,
        description="In Airflow, ask whether to load units that the gate holds, and wait this many hours for an answer."
        " Without an answer, the run fails. 0: do not ask; the run fails.",
    )
