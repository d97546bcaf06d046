"""Selects captions for the captions view in Airflow's UI, for a replay (which fuses pairs again) or for an export."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from capsfusion_tasks.errors import InputError

Verdict = Literal["any", "accepted", "rejected"]
Within = Literal["fused", "raw", "synthetic"]  # which captions a text search covers
SCORES = (
    *("caption_words", "raw_recall", "synthetic_recall", "fact_recall", "novelty", "invention", "repetition"),
    *("source_overlap", "similarity", "punsafe", "pwatermark"),
)


def storable(value: str) -> str:
    """Return ``value`` unchanged. Raises ValueError for a text that PostgreSQL cannot store."""
    if "\x00" in value:
        raise ValueError("the text has a NUL character, which PostgreSQL cannot store: remove the character")
    return value


def known_score(value: str) -> str:
    """Return ``value`` unchanged. Raises ValueError for a name that is not a score."""
    if value not in SCORES:
        raise ValueError(f"there is no score {value}; choose one of {', '.join(SCORES)}")
    return value


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(storable)]
Score = Annotated[str, AfterValidator(known_score)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class CaptionFilter(BaseModel):
    """Conditions on captions. A caption matches if it meets all conditions that are set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    words: Text | None = None  # words to search for, in the syntax of web searches: "quoted phrase", or, -excluded
    within: Within = "fused"
    url: Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(storable)] | None = None
    pair_id: UUID | None = None
    verdict: Verdict = "any"
    fusion_id: Text | None = None
    reason: Text | None = None  # if set, only rejected captions match
    flag: Text | None = None
    shard: Text | None = None  # a shard_id, a path, or a part of a path
    day: date | None = None  # the day (UTC) on which the data interval of the caption's run starts
    dag_run_id: Text | None = None  # a DAG run's id, or a part of it
    score: Score | None = None
    score_min: Number | None = None
    score_max: Number | None = None
    score_below: Number | None = None  # like score_max, but a caption with exactly this score does not match

    @field_validator("words")
    @classmethod
    def _something(cls, value: str | None) -> str | None:
        return value.strip() or None if value else None

    @property
    def of_accepted(self) -> bool:
        """Whether accepted captions can match. A filter with a reason matches only rejected captions."""
        return self.verdict != "rejected" and self.reason is None

    @property
    def of_rejected(self) -> bool:
        return self.verdict != "accepted" or self.reason is not None

    @property
    def by_unit(self) -> bool:
        """Whether the filter has a day or a run. The warehouse records these for work units, not for captions."""
        return self.day is not None or self.dag_run_id is not None

    @classmethod
    def of_param(cls, value: dict[str, Any] | None) -> CaptionFilter | None:
        """The filter from the value of an Airflow Param. Raises InputError for an invalid value."""
        try:
            return None if value is None else cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise InputError(
                f'the Param "filter" has a wrong field {name}: {first["msg"]}; the value is {value}'
            ) from error
