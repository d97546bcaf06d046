"""What an export contains: the user's selection, and the state of the warehouse that the first attempt records."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval, UtcTime, refuse_empty_span
from capsfusion_tasks.warehouse.caption_tables import fused_captions
from capsfusion_tasks.warehouse.provenance import PROVENANCE

# The columns of the published dataset CapsFusion-120M, in the same order.
PUBLISHED_COLUMNS = ("image_url", "laion_2b", "laion_coco", "capsfusion")
ALL_COLUMNS = (*fused_captions.columns.keys(), *PROVENANCE)


class Selection(BaseModel):
    """The captions to export: for each pair, the newest accepted caption, if it meets all conditions.

    An export records both its ``filter`` and the SQL that was made from the filter. The SQL lists the matching shards
    and times of loads, as the ledger had them when the export began. So an interrupted export continues with the same
    SQL, and selects the same captions. To find out whether a command continues the same export, compare the filters,
    because the SQL of an equal filter may differ.
    """

    model_config = ConfigDict(frozen=True)

    columns: tuple[str, ...] = PUBLISHED_COLUMNS
    fusion_id: str | None = None  # None: captions of any fusion
    interval: Interval | None = None  # only captions of this interval's units
    loaded_from: UtcTime | None = None
    loaded_before: UtcTime | None = None
    filter: CaptionFilter | None = None
    where: str | None = None  # SQL condition on the columns of fused_captions; made from ``filter`` if that is set
    limit: int | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Selection:
        refuse_empty_span(self.loaded_from, self.loaded_before)
        return self

    @model_validator(mode="after")
    def _known_columns(self) -> Selection:
        if unknown := [name for name in self.columns if name not in ALL_COLUMNS]:
            raise InputError(f"captions have no column {', '.join(unknown)}; they have {', '.join(ALL_COLUMNS)}")
        return self


def named_columns(names: str | None) -> tuple[str, ...]:
    """The published columns, then the columns in ``names`` (comma-separated, or "all")."""
    found = ALL_COLUMNS if names == "all" else (names or "").replace(" ", "").split(",")
    return tuple(dict.fromkeys((*PUBLISHED_COLUMNS, *filter(None, found))))


class Snapshot(BaseModel):
    """The state of the warehouse that an export shows: the units that were loaded at the time ``at``.

    The snapshot lists the units, because the time alone is ambiguous: a load with a ``loaded_at`` before ``at`` may
    commit after ``at``.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    units: tuple[str, ...]
    accepted: int  # number of accepted captions in the units
    superseded: int  # number of the units' rows that later units have replaced
    superseded_accepted: int | None = None  # accepted captions among these rows; None if an earlier version wrote this
    fusions: dict[str, dict[str, Any]]  # fusion_id → its settings
    # MD5 of a source's address → the text that stands for the source in the rows. In an export, this is the name of the
    # release. The snapshot records the names, because a name becomes longer if a source with an equal name is added
    # later.
    releases: dict[str, str] = {}

    def is_same_as(self, other: Snapshot) -> bool:
        earlier = other.superseded_accepted is None
        counts = {"superseded_accepted": None} if earlier else {"superseded": other.superseded}
        return self.model_copy(update={"at": other.at, "releases": other.releases, **counts}) == other

    @property
    def replaced(self) -> tuple[str, int]:
        """The column of ``work_units`` that counts replaced rows, and its sum over the snapshot's units.

        If the warehouse has a larger sum now, rows were replaced after the snapshot.
        """
        if self.superseded_accepted is None:
            return "superseded", self.superseded
        return "superseded_accepted", self.superseded_accepted


@dataclass(frozen=True)
class Outcome:
    """Numbers of accepted and rejected captions in a snapshot's units."""

    accepted: int
    rejected: int
    # Reason → number of rejected captions, the most frequent reason first. A caption with two reasons counts twice.
    reasons: dict[str, int]
