"""The ledger: the state of each listed shard (source file) and of each work unit (pairs that one GPU task fuses).

Every function takes an open connection. The caller commits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Engine, Row, and_, bindparam, delete, func, select, update
from sqlalchemy.dialects.postgresql import insert

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import PAIRED, Existing, Replay, Shard, Unit
from capsfusion_tasks.warehouse.arrays import among
from capsfusion_tasks.warehouse.ledger_tables import shards, work_units
from capsfusion_tasks.warehouse.sessions import LockedSession, locked_session
from capsfusion_tasks.warehouse.writable import require_writable

_RECENT_UNITS = 20  # number of units for ``recent_verdicts``
_NUL = "\x00"  # PostgreSQL cannot store this character in text


def record_shards(connection: Connection, found: Sequence[Shard]) -> None:
    """Register new shards as discovered. For shards that are registered already, update only ``seen_at``."""
    if not found:
        return
    ids = _register(connection, found)
    connection.execute(update(shards).where(shards.c.shard_id == bindparam("id")).values(seen_at=func.now()), ids)


def claim_late(connection: Connection, late: Sequence[Shard], interval: Interval) -> set[str]:
    """Assign late shards to ``interval``. Returns the ids of the ``late`` shards that belong to it now.

    A late shard appeared after its own interval had been listed. If several intervals claim the shard, even at the
    same time, the first one gets it. The result includes shards that an earlier call assigned to ``interval``.
    """
    if not late:
        return set()
    ids = _register(connection, late, adopted_by=interval.key)
    free = shards.c.shard_id == bindparam("id"), shards.c.adopted_by.is_(None)
    connection.execute(update(shards).where(*free).values(adopted_by=interval.key), ids)
    mine = among(shards.c.shard_id, [shard.shard_id for shard in late]), shards.c.adopted_by == interval.key
    return set(connection.scalars(select(shards.c.shard_id).where(*mine)))


def _register(connection: Connection, found: Sequence[Shard], **values: Any) -> list[dict[str, str]]:
    """Insert those of ``found`` that have no row, with ``values``. Returns all ids as parameters for ``execute``.

    Another run may insert the same rows at the same time. ON CONFLICT DO NOTHING names no columns, so that
    it covers both unique indexes. Rows are sorted, so that two runs cannot deadlock.
    """
    rows = [{**shard.model_dump(exclude={"revision", "problem"}), **values} for shard in found]
    rows.sort(key=lambda row: str(row["shard_id"]))
    connection.execute(insert(shards).on_conflict_do_nothing(), rows)
    return [{"id": row["shard_id"]} for row in rows]


def shard_pulled(connection: Connection, shard_id: str, rows: int, dropped: Mapping[str, int]) -> None:
    """Mark the shard as pulled. ``rows``: number of its rows. ``dropped``: reason → number of rows left out."""
    _update_shard(connection, shard_id, state="pulled", rows=rows, dropped=dict(dropped), error=None)


def shard_failed(connection: Connection, shard_id: str, error: str) -> None:
    _update_shard(connection, shard_id, state="failed", error=_clean(error))


def _update_shard(connection: Connection, shard_id: str, **values: Any) -> None:
    statement = update(shards).where(shards.c.shard_id == shard_id).values(**values, updated_at=func.now())
    if connection.execute(statement).rowcount == 0:
        raise InputError(f"the ledger has no shard {shard_id}; run the discover step of its interval first")


def pulled_bytes(connection: Connection) -> int:
    """Total size in bytes of the pulled shards of LAION-2B and LAION-COCO, as their sources listed them."""
    mine = shards.c.state == "pulled", shards.c.side.in_(PAIRED)
    return int(connection.scalar(select(func.coalesce(func.sum(shards.c.size_bytes), 0)).where(*mine)) or 0)


def image_results(connection: Connection) -> dict[str, str]:
    """shard_id → state, for files of image results (these say which images img2dataset could not download)."""
    mine = select(shards.c.shard_id, shards.c.state).where(shards.c.side == "image_results")
    return {row.shard_id: row.state for row in connection.execute(mine)}


def forget_image_results(connection: Connection, shard_ids: Sequence[str]) -> None:
    """Delete files of image results from the ledger, because their source no longer has them."""
    mine = shards.c.side == "image_results", shards.c.shard_id == bindparam("id")
    if shard_ids:
        connection.execute(delete(shards).where(*mine), [{"id": shard_id} for shard_id in shard_ids])


@contextmanager
def staging_lock(engine: Engine, staging: str) -> Iterator[None]:
    """Let only one process at a time choose the layout of a staging area.

    Other processes that use the same warehouse wait.
    """
    with locked_session(engine) as session:
        session.lock("staging", staging)
        yield


@contextmanager
def planning_lock(engine: Engine, fusion_id: str) -> Iterator[LockedSession]:
    """A session during which no other process plans under this fusion_id. Other processes wait for its end.

    Call ``open_units`` before ``known_pairs``: the pairs of a unit that is loaded between the calls are then in both
    results. In the other order they would be in neither.
    """
    with locked_session(engine) as session:
        with session.transaction() as connection:
            require_writable(connection)
        session.lock("plan", fusion_id)
        yield session


def recent_verdicts(connection: Connection, fusion_id: str) -> list[tuple[int, int]]:
    """Numbers of accepted and of rejected rows, for each of the units of this fusion_id that were loaded last.

    Leaves out replays, because validation rejects a larger share of their captions.
    """
    units = work_units.c
    statement = (
        select(units.accepted, units.rejected)
        .where(units.fusion_id == fusion_id, units.state == "loaded", units.replay.is_(None))
        .order_by(units.loaded_at.desc())
        .limit(_RECENT_UNITS)
    )
    return [(row.accepted, row.rejected) for row in connection.execute(statement)]


def open_units(connection: Connection, fusion_id: str) -> list[str]:
    """Ids of the units of this fusion_id that are not loaded. A new unit must not have any of these units' pairs."""
    statement = select(work_units.c.unit_id).where(work_units.c.fusion_id == fusion_id, work_units.c.state != "loaded")
    return list(connection.scalars(statement.order_by(work_units.c.unit_id)))


def unfinished_fusion(connection: Connection, dag_run_id: str) -> str | None:
    """The fusion_id of the newest unfinished unit of a DAG run. None: the run has no unfinished unit."""
    units = work_units.c
    mine = (units.dag_run_id == dag_run_id, units.state != "loaded")
    found: str | None = connection.scalar(
        select(units.fusion_id).where(*mine).order_by(units.created_at.desc()).limit(1)
    )
    return found


def planned_rows(connection: Connection, unit_ids: Sequence[str]) -> int:
    """Number of pairs in the units with these ids."""
    statement = select(func.coalesce(func.sum(work_units.c.rows_in), 0)).where(among(work_units.c.unit_id, unit_ids))
    return int(connection.execute(statement).scalar_one())


def register_units(
    connection: Connection,
    units: Sequence[Unit],
    work: Interval | Replay,
    dag_run_id: str | None = None,
    existing: Existing = "skip",
    *,
    leaves_pairs: bool = False,
) -> None:
    """Register the units of an interval or a replay as planned. A unit that is already registered keeps its row.

    If ``existing`` is replace, loading the units replaces older captions of their pairs. ``leaves_pairs``: whether the
    plan leaves pairs for another run.
    """
    if not units:
        return
    if isinstance(work, Interval):
        origin: dict[str, Any] = {"interval_start": work.start, "interval_end": work.end}
    else:
        origin = {"replay": work.name, "replay_of": work.fusion_id}
    rows = [
        {
            "unit_id": unit.unit_id,
            "fusion_id": unit.fusion_id,
            **origin,
            "dag_run_id": dag_run_id,
            "existing": existing,
            "leaves_pairs": leaves_pairs,
            "rows_in": unit.rows,
            "tokens_estimated": unit.tokens,
        }
        for unit in units
    ]
    connection.execute(insert(work_units).on_conflict_do_nothing(), rows)


def unit_states(connection: Connection, unit_ids: Sequence[str]) -> dict[str, str]:
    """unit_id → state, for those of ``unit_ids`` that are registered."""
    statement = select(work_units.c.unit_id, work_units.c.state).where(among(work_units.c.unit_id, unit_ids))
    return {row.unit_id: row.state for row in connection.execute(statement)}


@dataclass(frozen=True)
class FusedUnit:
    """The figures of a fused unit, as recorded by ``unit_fused``. None: not measured. Rates are per device."""

    rows: int | None = None
    prompt_tokens: int | None = None
    caption_tokens: int | None = None
    gpu_seconds: float | None = None
    rows_per_second: float | None = None
    tokens_per_second: float | None = None
    occupancy: float | None = None


@dataclass(frozen=True)
class LoadedUnit:
    accepted: int
    rejected: int
    fused: FusedUnit


def loaded_unit(connection: Connection, unit_id: str) -> LoadedUnit | None:
    """The counts of a loaded unit. None: the unit is not loaded."""
    units = work_units.c
    statement = select(units.accepted, units.rejected, units.stats)
    row = connection.execute(statement.where(units.unit_id == unit_id, units.state == "loaded")).one_or_none()
    if row is None:
        return None
    kept = {field.name: (row.stats or {}).get(field.name) for field in fields(FusedUnit)}
    return LoadedUnit(row.accepted, row.rejected, FusedUnit(**kept))


def unit_started(connection: Connection, unit_id: str) -> None:
    """Record that an attempt to fuse the unit starts.

    This function, ``unit_fused`` and ``unit_failed`` do not change a unit that is loaded already.
    """
    _update_unit(connection, unit_id, state="fusing", tries=work_units.c.tries + 1, error=None)


def unit_fused(connection: Connection, unit_id: str, stats: Mapping[str, Any]) -> None:
    """Mark the unit as fused. Stores all ``stats`` as JSON, and some also in columns of the same name."""
    measures = ("gpu_seconds", "rows_per_second", "prompt_tokens", "caption_tokens")
    columns = {name: stats[name] for name in measures if name in stats}
    _update_unit(connection, unit_id, state="fused", error=None, stats=dict(stats), **columns)


def unit_failed(connection: Connection, unit_id: str, error: str) -> None:
    _update_unit(connection, unit_id, state="failed", error=_clean(error))


def _update_unit(connection: Connection, unit_id: str, **values: Any) -> None:
    mine = work_units.c.unit_id == unit_id
    statement = update(work_units).where(mine, work_units.c.state != "loaded").values(**values)
    if connection.execute(statement).rowcount == 0 and not unit_states(connection, [unit_id]):
        raise InputError(f"the ledger has no work unit {unit_id}; run the plan step first")


def _clean(message: str) -> str:
    return message.replace(_NUL, "\ufffd").encode("utf-8", "replace").decode()


class PlannedUnit(NamedTuple):
    """A unit, its state, and how often a task began to fuse it (``tries``).

    ``check --repair`` sets the state back to planned, but does not change ``tries``.
    """

    unit: Unit
    state: str
    tries: int
    existing: Existing

    @property
    def begun(self) -> bool:
        """Whether some rows of the unit may already be fused."""
        return self.state != "planned" or self.tries > 0


def units_of(connection: Connection, fusion_id: str | None, work: Interval | Replay) -> list[PlannedUnit]:
    """The units of the interval or the replay, in the order in which the plan made them.

    ``fusion_id``: only units of this fusion. None: units of all fusions.
    """
    statement = select(work_units).where(its_units(work, fusion_id)).order_by(work_units.c.unit_id)
    return [PlannedUnit(_unit(row), row.state, row.tries, row.existing) for row in connection.execute(statement)]


def its_units(work: Interval | Replay, fusion_id: str | None) -> ColumnElement[bool]:
    """The condition that a unit belongs to the interval or the replay, and to the fusion if one is given."""
    units = work_units.c
    its = [units.fusion_id == fusion_id] if fusion_id is not None else []
    if isinstance(work, Interval):
        return and_(*its, units.interval_start == work.start, units.interval_end == work.end)
    return and_(*its, units.replay == work.name, units.replay_of == work.fusion_id)


def units(connection: Connection, unit_ids: Sequence[str]) -> list[Unit]:
    """The units with these ids, sorted by id."""
    statement = select(work_units).where(among(work_units.c.unit_id, unit_ids)).order_by(work_units.c.unit_id)
    return [_unit(row) for row in connection.execute(statement)]


def _unit(row: Row[Any]) -> Unit:
    return Unit(unit_id=row.unit_id, fusion_id=row.fusion_id, rows=row.rows_in, tokens=row.tokens_estimated)
