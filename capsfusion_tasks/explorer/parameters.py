"""The query parameters of the page's requests: validated, and converted to filters of the warehouse."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from capsfusion_tasks.explorer.figures import RunKey
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.browse import SCORES, CaptionFilter, Position, Verdict
from capsfusion_tasks.warehouse.tables import JUDGEMENTS


def _storable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("has a NUL character, which PostgreSQL cannot store")
    return value


Text = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_storable)]


class CaptionQuery(BaseModel):
    """A page of captions; ``after``: the value of ``following`` in the previous page."""

    model_config = ConfigDict(extra="forbid")

    words: Text | None = None
    verdict: Verdict = "any"
    fusion_id: Text | None = None
    reason: Text | None = None
    flag: Text | None = None
    shard: Text | None = None
    day: date | None = None
    dag_run_id: Text | None = None
    score: Text | None = None
    score_min: float | None = Field(None, allow_inf_nan=False)
    score_max: float | None = Field(None, allow_inf_nan=False)
    after: Text | None = None
    limit: int = Field(25, ge=1, le=200)

    @model_validator(mode="after")
    def _known(self) -> CaptionQuery:
        if self.score is not None and self.score not in SCORES:
            raise ValueError(f"there is no score {self.score}; choose one of {', '.join(SCORES)}")
        self.position()
        return self

    def filter(self) -> CaptionFilter:
        return CaptionFilter(**self.model_dump(exclude={"after", "limit"}))

    def position(self) -> Position | None:
        if self.after is None:
            return None
        loaded_at, _, rest = self.after.partition(" ")
        pair_id, _, fusion_id = rest.partition(" ")
        return Position(datetime.fromisoformat(loaded_at), UUID(pair_id), fusion_id)


class ImageQuery(BaseModel):
    """The address of an image."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(pattern=r"^(?i:https?)://", max_length=10_000), AfterValidator(_storable)]


class JudgementBody(BaseModel):
    """What a user says of a caption."""

    model_config = ConfigDict(extra="forbid")

    verdict: Literal[JUDGEMENTS]  # type: ignore[valid-type]
    note: Annotated[str, Field(max_length=2000), AfterValidator(_storable)] = ""


def as_text(position: Position | None) -> str | None:
    """``position`` as a value of ``CaptionQuery.after``."""
    return None if position is None else f"{position.loaded_at.isoformat()} {position.pair_id} {position.fusion_id}"


class RunQuery(BaseModel):
    """A DAG run by its id, a replay by its name, or an interval; without any of them, all runs. One fusion of it."""

    model_config = ConfigDict(extra="forbid")

    dag_run_id: Text | None = None
    replay: Text | None = None
    start: datetime | None = None
    end: datetime | None = None
    fusion_id: Text | None = None

    @model_validator(mode="after")
    def _whole_interval(self) -> RunQuery:
        if (self.start is None) != (self.end is None) or (self.start and self.end and self.start >= self.end):
            raise ValueError("give an interval both a start and a later end")
        return self

    def key(self) -> RunKey:
        interval = Interval(start=self.start, end=self.end) if self.start and self.end else None
        return RunKey(self.dag_run_id, self.replay, interval, self.fusion_id)
