"""Loads a work unit (rows that one GPU task fused): stores its captions and marks it as loaded, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import func, select

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import OTHER_BEAMS, has_beams, validated_schema
from capsfusion_tasks.warehouse import fusions
from capsfusion_tasks.warehouse.adbc_session import WITHOUT_COPY, adbc_session
from capsfusion_tasks.warehouse.caption_tables import rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.locks import lock_key, lock_sql
from capsfusion_tasks.warehouse.schema import SCHEMA
from capsfusion_tasks.warehouse.sessions import KEEPALIVE

NUL, REPLACEMENT = "\x00", "\ufffd"

_STORED = ("fused_captions", "rejected_captions", "replayed_captions")

SESSION = {
    # PostgreSQL adds new words to a text index in batches of this size. Each batch rewrites the entries of all common
    # words. With the default of 4 MB, loading a row into a table of two million rows takes more than twice as long as
    # with 64 MB.
    "work_mem": "64MB",
    # Make PostgreSQL use indexes to find each row's pair and unit. Otherwise it would scan work_units for each row
    # while that table is small. It could also scan a large table, because the statistics can be hours old.
    "enable_seqscan": "off",
    # PostgreSQL 17 and older would spend time on compiling (JIT) the scan of the incoming rows.
    "jit": "off",
    # After this time the server ends a load whose client has disappeared, and releases its locks. In a healthy load the
    # server waits for its client only milliseconds.
    "idle_in_transaction_session_timeout": "5min",
    **KEEPALIVE,
}


@dataclass(frozen=True)
class LoadResult:
    """The counts of a loaded unit. ``already_loaded``: an earlier call loaded the unit, and this call did nothing."""

    accepted: int
    rejected: int
    already_loaded: bool


def load_unit(
    warehouse: Warehouse,
    unit_id: str,
    batches: pa.Table | pa.RecordBatchReader,
    dag_run_id: str | None = None,
    replace: bool = False,
) -> LoadResult:
    """Load a unit's rows (``schemas.validated_schema``) and mark it as loaded, in one transaction.

    Does nothing if the unit is loaded already. Rows without reasons for rejection go to ``fused_captions``, all others
    to ``rejected_captions``. PostgreSQL cannot store a NUL character, so it becomes U+FFFD.

    If ``replace`` is true, or the unit was planned to replace captions, this function deletes older rows of the same
    pairs under the same fusion_id, and counts them as superseded in their units. If the unit belongs to a replay, this
    function moves its pairs' rows from ``rejected_captions`` to ``replayed_captions``.

    Raises InputError if the unit is unknown, has another number of rows than planned, or has a pair twice. Also raises
    InputError if the warehouse already has one of the pairs and the unit does not replace captions. Raises
    NotReadyError if the connection is lost. An error leaves the warehouse unchanged.
    """
    table = batches if isinstance(batches, pa.Table) else batches.read_all()
    _check(table, unit_id)
    with _transaction(warehouse) as cursor:
        # A second load of the same unit waits here, then finds the unit loaded.
        found = _query(
            cursor,
            "select fusion_id, replay_of, existing, state, rows_in, accepted, rejected from capsfusion.work_units"
            " where unit_id = $1 for update",
            unit_id,
        )
        if not found:
            raise InputError(f"the ledger has no work unit {unit_id}; run the plan step first")
        fusion_id, replay_of, existing, state, rows_in, accepted, rejected = found[0]
        if state == "loaded":
            return LoadResult(accepted, rejected, already_loaded=True)
        if table.num_rows != rows_in:
            raise InputError(
                f"unit {unit_id} was planned with {rows_in} rows, but {table.num_rows} are validated; validate the"
                " unit again"
            )

        cursor.adbc_ingest("incoming", _storable(table), mode="create", temporary=True)
        # The joins below need these statistics. Analyzing all columns would take a quarter of the load's time.
        cursor.execute("analyze incoming (pair_id)")
        # Load one unit of a fusion at a time: a pair must be in only one table of captions, and no constraint can
        # ensure this.
        for locked in sorted({fusion_id, replay_of or fusion_id}):  # sorted, to avoid a deadlock
            _query(cursor, f"select pg_advisory_xact_lock({lock_sql('load')})", locked)
        # Do not use ``now()``: it is the time when the transaction began, before the wait for the lock. ``loads_until``
        # needs a time after this wait.
        [[moment]] = _query(cursor, "select clock_timestamp()")
        if replay_of:
            _take_from_quarantine(cursor, replay_of, fusion_id, unit_id)
        if replace or existing == "replace":
            # A replay deletes no rows of ``replayed_captions``, because they are the history of earlier replays.
            _supersede(cursor, fusion_id, _STORED[:2] if replay_of else _STORED)
        else:
            _refuse_known_pairs(cursor, unit_id, fusion_id)
        origin, columns = (fusion_id, unit_id, dag_run_id, moment), table.schema.names
        _insert(cursor, "fused_captions", columns, "reasons = '{}'", origin)
        _insert(cursor, "rejected_captions", columns, "reasons <> '{}'", origin)
        accepted = pc.sum(pc.equal(pc.list_value_length(table["reasons"]), 0)).as_py() or 0
        rejected = table.num_rows - accepted
        cursor.execute(
            "update capsfusion.work_units set state = 'loaded', accepted = $2, rejected = $3, error = null,"
            " loaded_at = $4 where unit_id = $1",
            (unit_id, accepted, rejected, moment),
        )
    return LoadResult(accepted, rejected, already_loaded=False)


def refuse_future_start(warehouse: Warehouse, moment: datetime) -> None:
    """Raise NotReadyError if ``moment`` is in the future: no caption can have a later ``loaded_at`` yet."""
    with warehouse.engine.connect() as connection:
        if connection.execute(select(func.clock_timestamp())).scalar_one() < moment:
            raise NotReadyError(
                f"{moment:%Y-%m-%d %H:%M:%S} UTC is in the future: no caption has been loaded after this time yet."
                " Give a start that has passed"
            )


def loads_until(warehouse: Warehouse, moment: datetime) -> None:
    """Wait until all captions with a ``loaded_at`` before ``moment`` can be read.

    A load holds the lock of its fusion while it reads the clock for its ``loaded_at`` and until it commits. So after a
    wait for the lock, only loads with a later ``loaded_at`` can follow. Raises NotReadyError if ``moment`` is in the
    future.
    """
    with warehouse.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.execute(select(func.clock_timestamp())).scalar_one() < moment:
            raise NotReadyError(
                f"the end of the export, {moment:%Y-%m-%d %H:%M:%S} UTC is in the future: the next export starts at"
                " this end, so captions that are loaded before it would be in neither export. Give an end that has"
                " passed, or try again after this end"
            )
        for fusion_id in fusions.all_ids(connection):
            connection.execute(select(func.pg_advisory_xact_lock_shared(lock_key("load", fusion_id))))


@contextmanager
def _transaction(warehouse: Warehouse) -> Iterator[Any]:
    """A cursor on a new connection. Commits at the end of the block, rolls back if the block raises."""
    with adbc_session(warehouse) as connection:
        with connection.cursor(adbc_stmt_kwargs=WITHOUT_COPY) as cursor:
            for name, value in SESSION.items():
                _query(cursor, "select set_config($1, $2, true)", name, value)
            yield cursor
        connection.commit()


def _query(cursor: Any, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    cursor.execute(statement, parameters)
    return list(cursor.fetchall())


def _refuse_known_pairs(cursor: Any, unit_id: str, fusion_id: str) -> None:
    known = _query(
        cursor,
        """
        select pair_id::text, unit_id from incoming
        join (
            select pair_id, fusion_id, unit_id from capsfusion.fused_captions
            union all
            select pair_id, fusion_id, unit_id from capsfusion.rejected_captions
        ) loaded using (pair_id)
        where fusion_id = $1 limit 1
        """,
        fusion_id,
    )
    if known:
        pair_id, other = known[0]
        raise InputError(
            f"unit {unit_id} cannot be loaded: pair {pair_id} is in the warehouse already, from unit {other}."
            " To replace the older captions, run again with --existing replace (in Airflow: Param existing)"
        )


def _take_from_quarantine(cursor: Any, replay_of: str, fusion_id: str, unit_id: str) -> None:
    """Move the incoming pairs' old rows under ``replay_of`` from ``rejected_captions`` to ``replayed_captions``.

    If the new captions have the same fusion_id, moves only rows of pairs whose new caption is accepted. If the new
    caption of a pair is rejected too, the new row replaces the old one.
    """
    names = ", ".join(rejected_captions.columns.keys())
    which = " and incoming.reasons = '{}'" if replay_of == fusion_id else ""
    cursor.execute(
        f"""
        with gone as (
            delete from capsfusion.rejected_captions old using incoming
            where old.pair_id = incoming.pair_id and old.fusion_id = $1{which} returning old.*
        )
        insert into capsfusion.replayed_captions ({names}, replayed_by) select {names}, $2 from gone
        """,  # noqa: S608
        (replay_of, unit_id),
    )
    if replay_of == fusion_id:
        _supersede(cursor, fusion_id, ("rejected_captions",))


def _supersede(cursor: Any, fusion_id: str, tables: tuple[str, ...]) -> None:
    """Delete the older rows of the incoming pairs, and count them as superseded in their units."""
    for table in tables:
        accepted = ", superseded_accepted = superseded_accepted + lost.rows" if table == "fused_captions" else ""
        cursor.execute(
            f"""
            with gone as (
                delete from capsfusion.{table} old using incoming
                where old.pair_id = incoming.pair_id and old.fusion_id = $1 returning old.unit_id
            )
            update capsfusion.work_units unit set superseded = superseded + lost.rows{accepted}
            from (select unit_id, count(*) as rows from gone group by unit_id) lost where unit.unit_id = lost.unit_id
            """,  # noqa: S608
            (fusion_id,),
        )


def _insert(cursor: Any, table: str, columns: list[str], condition: str, origin: tuple[Any, ...]) -> None:
    """Insert the incoming rows that meet ``condition``. Leaves out ``columns`` that the table does not have.

    ``origin``: fusion_id, unit_id, dag_run_id and loaded_at of the rows.
    """
    names = [name for name in columns if name in rejected_captions.metadata.tables[f"{SCHEMA}.{table}"].columns]
    values = [f"{name}::jsonb" if name == OTHER_BEAMS.name else name for name in names]
    cursor.execute(
        f"insert into capsfusion.{table} ({', '.join(names)}, fusion_id, unit_id, dag_run_id, loaded_at)"  # noqa: S608
        f" select {', '.join(values)}, $1, $2, $3, $4 from incoming where {condition}",
        origin,
    )


def _check(table: pa.Table, unit_id: str) -> None:
    expected = validated_schema(with_beams=has_beams(table))
    if table.schema.names != expected.names or table.schema.types != expected.types:
        raise InputError(
            f"the rows of unit {unit_id} have the schema\n{table.schema}\nexpected\n{expected}\nValidate the unit again"
        )
    for field in expected:
        if not field.nullable and table[field.name].null_count:
            raise InputError(f"unit {unit_id} has rows without {field.name}; validate the unit again")
    different = pc.count_distinct(table["pair_id"]).as_py()
    if different != table.num_rows:
        raise InputError(f"unit {unit_id} has {table.num_rows} rows and {different} different pairs; plan it again")


def _storable(table: pa.Table) -> pa.Table:
    """The rows with pair_id as a uuid, the other captions of the beam search as JSON, and without NUL characters.

    The rows are sorted by pair_id, so that consecutive rows write to the same page of the primary key's index.
    """
    table = table.sort_by("pair_id")
    columns = [_without_nul(column) for column in table.columns]
    columns[table.schema.get_field_index("pair_id")] = table["pair_id"].cast(pa.uuid())
    if has_beams(table):
        columns[table.schema.get_field_index(OTHER_BEAMS.name)] = _as_json(table[OTHER_BEAMS.name])
    return pa.table(columns, names=table.schema.names)


def _as_json(beams: pa.ChunkedArray) -> pa.Array:
    """``schemas.OTHER_BEAMS`` as JSON texts, without NUL: PostgreSQL also refuses a NUL that JSON has escaped."""
    rows = beams.to_pylist()
    for beam in (beam for row in rows if row for beam in row):
        beam["capsfusion"] = beam["capsfusion"].replace(NUL, REPLACEMENT)
    return pa.array([None if row is None else json.dumps(row, ensure_ascii=False) for row in rows], pa.string())


def _without_nul(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        return pc.replace_substring(column, NUL, REPLACEMENT)
    if pa.types.is_list(column.type) and pa.types.is_string(column.type.value_type):
        lists = column.combine_chunks()
        return pa.chunked_array(
            [
                pa.ListArray.from_arrays(
                    lists.offsets, pc.replace_substring(lists.values, NUL, REPLACEMENT), mask=lists.is_null()
                )
            ]
        )
    return column
