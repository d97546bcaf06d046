"""Thresholds of validation's rules and of its gate. They are part of the settings.

They are not in settings.py, so that code which only judges captions (the demo's made pairs) needs no pydantic-settings.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RuleSettings(BaseModel):
    """Thresholds of validation's rules, calibrated on the published captions: each rule's docstring says how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_words: int = Field(default=3, ge=0, description="Captions of fewer words are too short …")
    min_characters: int = Field(default=6, ge=0, description="… and so are those of fewer characters.")
    max_words: int = Field(default=80, ge=1, description="Captions of more words are too long.")
    repetition_max: float = Field(default=0.15, ge=0, le=1, description="Largest share of trigrams that stood before.")
    facts_min: int = Field(
        default=3, ge=1, description="Raw captions of so many names and numbers must keep a share of them:"
    )
    fact_recall_min: float = Field(default=0.25, ge=0, le=1, description="… at least this one.")
    invented_max: int = Field(default=2, ge=0, description="Most names and numbers that may stand in neither source.")
    restated_max: float = Field(
        default=0.7,
        gt=0,
        le=1,
        description="Share of content words that two sentences of a caption may have in common.",
    )
    unsupported_max: float = Field(
        default=0.65, gt=0, le=1, description="Share of content words that may stand in neither source …"
    )
    unsupported_min: int = Field(default=5, ge=1, description="… where there are at least so many of them.")
    same_caption_max: int = Field(
        default=5, ge=1, description="Most different raw captions that may get the same caption."
    )


class GateSettings(BaseModel):
    """When a unit's rejections keep it out of the warehouse: ``validation/gate.py`` says how it decides."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rejected_max: float = Field(
        default=0.25, ge=0, le=1, description="Largest share of a unit's rows that may be rejected."
    )
    drift_max: float = Field(default=6.0, gt=0, description="How many standard errors above recent units it may lie.")
    min_rows: int = Field(default=100, ge=1, description="Units of fewer rows pass: their share says little.")
