"""Validates the query parameters of the page's requests, and converts them to filters of the warehouse."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from capsfusion_tasks.caption_filter import CaptionFilter, Score, Text, storable
from capsfusion_tasks.explorer.figures import RunKey
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.warehouse.browse import Position
from capsfusion_tasks.warehouse.caption_tables import JUDGEMENTS


class CaptionQuery(CaptionFilter):
    """The query for a page of captions. ``after`` is the value ``following`` that came with the previous page."""

    after: Text | None = None
    limit: int = Field(25, ge=1, le=200)

    @model_validator(mode="after")
    def _known(self) -> CaptionQuery:
        self.position()
        return self

    def filter(self) -> CaptionFilter:
        return CaptionFilter(**self.model_dump(include=set(CaptionFilter.model_fields)))

    def position(self) -> Position | None:
        if self.after is None:
            return None
        loaded_at, _, rest = self.after.partition(" ")
        pair_id, _, fusion_id = rest.partition(" ")
        return Position(datetime.fromisoformat(loaded_at), UUID(pair_id), fusion_id)


class FacetQuery(CaptionFilter):
    """The query for facets (counts by reason, flag, day, …) and a score's histogram of captions that match a filter."""

    histogram: Score = "caption_words"

    def filter(self) -> CaptionFilter:
        return CaptionFilter(**self.model_dump(include=set(CaptionFilter.model_fields)))


class ImageQuery(BaseModel):
    """The query for an image: the image's URL."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(pattern=r"^(?i:https?)://", max_length=10_000), AfterValidator(storable)]


class JudgementBody(BaseModel):
    """A user's judgement of a caption.

    ``shown``: the caption's text that the user has read. If the warehouse has another text now, the judgement is
    refused. None: accept the judgement in any case.
    """

    model_config = ConfigDict(extra="forbid")

    verdict: Literal[JUDGEMENTS]  # type: ignore[valid-type]
    note: Annotated[str, Field(max_length=2000), AfterValidator(storable)] = ""
    shown: str | None = None


def as_text(position: Position | None) -> str | None:
    """Convert ``position`` to a value for ``CaptionQuery.after``."""
    return None if position is None else f"{position.loaded_at.isoformat()} {position.pair_id} {position.fusion_id}"


class TrendQuery(BaseModel):
    """The query for trends by day. ``fusion_id``: trends of the captions with this id; None: of all captions."""

    model_config = ConfigDict(extra="forbid")

    fusion_id: Text | None = None


class RunQuery(BaseModel):
    """Selects a DAG run by its id, a replay by its name, or an interval. Default: all runs, with all fusion_ids."""

    model_config = ConfigDict(extra="forbid")

    dag_run_id: Text | None = None
    replay: Text | None = None
    start: datetime | None = None
    end: datetime | None = None
    fusion_id: Text | None = None

    @model_validator(mode="after")
    def _whole_interval(self) -> RunQuery:
        if (self.start is None) != (self.end is None) or (self.start and self.end and self.start >= self.end):
            raise ValueError("an interval needs a start, and an end that is later than the start")
        return self

    def key(self) -> RunKey:
        interval = Interval(start=self.start, end=self.end) if self.start and self.end else None
        return RunKey(self.dag_run_id, self.replay, interval, self.fusion_id)
