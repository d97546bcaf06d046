"""Converts a filter of captions to SQL conditions. All values are bound parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta

from sqlalchemy import ColumnElement, Connection, FromClause, Table, func, literal_column, or_, select

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.ledger_tables import shards, work_units

SEARCHED = {"fused": "capsfusion", "raw": "laion_2b", "synthetic": "laion_coco"}  # CaptionFilter.within → column
ENGLISH: ColumnElement[str] = literal_column("'english'")
_MOST_NAMED = 200  # largest number of shards or runs that a part of a name may match


class UnclearFilter(InputError):
    """A part of a name in the filter matches too many shards or runs."""


@dataclass(frozen=True)
class Conditions:
    """A filter, with facts from the ledger: the shards and runs that match, and when the matching units were loaded.

    A filter by day or by run selects captions by unit, because the ledger has the day and the run of each unit.
    ``loaded``: the times when the first and the last matching unit were loaded. None if the filter has no day and no
    run, or if no matching unit is loaded.
    """

    wanted: CaptionFilter
    shard_ids: Sequence[str]
    runs: Sequence[str]
    loaded: tuple[datetime, datetime] | None

    @property
    def nothing_loaded(self) -> bool:
        """Whether no unit of the filter's day or run is loaded. No caption can match then, so no query is needed."""
        return self.wanted.by_unit and self.loaded is None

    @property
    def tables(self) -> list[Table]:
        return [fused_captions] * self.wanted.of_accepted + [rejected_captions] * self.wanted.of_rejected

    @property
    def rare_with_index(self) -> bool:
        """Whether a condition has an index that PostgreSQL must be told to use: see ``bitmaps_only``."""
        wanted = self.wanted
        return any(each is not None for each in (wanted.words, wanted.reason, wanted.flag)) or self.few

    @property
    def few(self) -> bool:
        """Whether the filter names so few captions that an index finds them quickly."""
        return any(each is not None for each in (self.wanted.shard, self.wanted.url, self.wanted.pair_id))

    @property
    def by_row(self) -> bool:
        """Whether the filter has a condition on single captions, such as a word or a score.

        If not, the number of matches is a sum over the ledger, which has the number of captions of each unit.
        """
        return self.rare_with_index or self.wanted.score is not None

    def rare(self, captions: FromClause) -> list[ColumnElement[bool]]:
        """The conditions on columns with a GIN index. Such a condition may match only a few captions."""
        wanted, column = self.wanted, captions.c
        found: list[ColumnElement[bool]] = []
        if wanted.words is not None:
            document = func.to_tsvector(ENGLISH, column[SEARCHED[wanted.within]])
            found.append(document.bool_op("@@")(func.websearch_to_tsquery(ENGLISH, wanted.words)))
        # Only the table of rejected captions has a column of reasons.
        if wanted.reason is not None and "reasons" in column:
            found.append(column.reasons.contains([wanted.reason]))
        if wanted.flag is not None:
            found.append(column.flags.contains([wanted.flag]))
        return found

    def others(self, captions: FromClause) -> list[ColumnElement[bool]]:
        """All conditions that are not in ``rare``."""
        wanted, column = self.wanted, captions.c
        found: list[ColumnElement[bool]] = []
        if wanted.pair_id is not None:
            found.append(column.pair_id == wanted.pair_id)
        if wanted.url is not None:
            found.append(column.image_url == wanted.url)
        if wanted.fusion_id is not None:
            found.append(column.fusion_id == wanted.fusion_id)
        if wanted.shard is not None:
            mine = self.shard_ids
            found.append(or_(column.laion_2b_shard.in_(mine), column.laion_coco_shard.in_(mine)))
        if wanted.by_unit:
            found.append(column.unit_id.in_(select(work_units.c.unit_id).where(*self._days_and_runs())))
        if self.loaded is not None:
            found.append(column.loaded_at.between(*self.loaded))
        if wanted.score is not None:
            score = column[wanted.score]
            found += [score >= wanted.score_min] if wanted.score_min is not None else []
            found += [score <= wanted.score_max] if wanted.score_max is not None else []
            found += [score < wanted.score_below] if wanted.score_below is not None else []
        return found

    def all(self, captions: FromClause) -> list[ColumnElement[bool]]:
        return [*self.others(captions), *self.rare(captions)]

    def units(self) -> list[ColumnElement[bool]]:
        """Conditions on ``work_units`` that select the units whose captions may match."""
        mine = [work_units.c.fusion_id == self.wanted.fusion_id] if self.wanted.fusion_id is not None else []
        return [work_units.c.state == "loaded", *mine, *self._days_and_runs()]

    def _days_and_runs(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = []
        if self.wanted.day is not None:
            start = datetime.combine(self.wanted.day, time(), UTC)
            found += [work_units.c.interval_start >= start, work_units.c.interval_start < start + timedelta(days=1)]
        if self.wanted.dag_run_id is not None:
            found.append(work_units.c.dag_run_id.in_(self.runs))
        return found


def conditions(connection: Connection, wanted: CaptionFilter) -> Conditions:
    """The conditions of ``wanted``. Raises UnclearFilter if a part of a name matches too many shards or runs."""
    found = Conditions(wanted, _shard_ids(connection, wanted.shard), _runs(connection, wanted.dag_run_id), None)
    if not wanted.by_unit:
        return found
    # Limit the query to the time in which the units were loaded. Otherwise PostgreSQL would expect to find an
    # old run's captions among the newest ones, and would scan all newer captions first.
    loaded = work_units.c.loaded_at
    first, last = connection.execute(select(func.min(loaded), func.max(loaded)).where(*found.units())).one()
    return Conditions(wanted, found.shard_ids, found.runs, None if first is None else (first, last))


def _shard_ids(connection: Connection, shard: str | None) -> list[str]:
    """Ids of the shards whose id or path is ``shard``. If there is none, ids of shards with ``shard`` in their path.

    A replaced file is a new shard, so several shards can have the same path.
    """
    if shard is None:
        return []
    known = select(shards.c.shard_id).limit(_MOST_NAMED + 1)
    exact = list(connection.scalars(known.where(or_(shards.c.shard_id == shard, shards.c.path == shard))))
    return exact or _few(connection.scalars(known.where(_contains(shards.c.path, shard))).all(), "shards", shard)


def _runs(connection: Connection, name: str | None) -> list[str]:
    if name is None:
        return []
    run = work_units.c.dag_run_id
    known = select(run).distinct().limit(_MOST_NAMED + 1)
    exact = list(connection.scalars(known.where(run == name)))
    return exact or _few(connection.scalars(known.where(_contains(run, name))).all(), "runs", name)


def _contains(column: ColumnElement[str], part: str) -> ColumnElement[bool]:
    return func.strpos(func.lower(column), func.lower(part)) > 0


def _few(found: Sequence[str], what: str, part: str) -> list[str]:
    if len(found) > _MOST_NAMED:
        raise UnclearFilter(f"more than {_MOST_NAMED} {what} have {part!r} in their name: enter more of the name")
    return list(found)


def bitmaps_only(connection: Connection, on: bool) -> None:
    """Make PostgreSQL find all matches with a bitmap scan, until the transaction ends. ``on=False`` undoes this.

    By default, PostgreSQL scans captions from the newest on until it has enough matches. This scan can read millions of
    rows, because PostgreSQL expects too many matches: it overestimates how frequent a word is, assumes that 1 caption
    in 200 has a given flag even if none has it, and expects to find captions of an old shard among the newest ones.
    """
    for name in ("enable_indexscan", "enable_seqscan"):
        connection.execute(select(func.set_config(name, "off" if on else "on", True)))
