"""Loads a unit: its captions and its "loaded" mark become visible together, or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import VALIDATED
from capsfusion_tasks.warehouse.adbc_session import WITHOUT_COPY, adbc_session
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.locks import lock_sql
from capsfusion_tasks.warehouse.tables import rejected_captions

NUL, REPLACEMENT = "\x00", "\ufffd"

_STORED = ("fused_captions", "rejected_captions", "replayed_captions")

SESSION = {
    # New words are sorted into their index in batches of this size, and each batch writes all common words again: with
    # PostgreSQL's 4 MB, a row at two million rows costs the server more than twice as much.
    "work_mem": "64MB",
    # Each row's foreign keys are looked up, and so are its pair's. While a hundred units or so are there, the planner
    # finds it cheaper to read them all, for each row; and what it thinks of the large tables can be hours old.
    "enable_seqscan": "off",
    "jit": "off",  # else PostgreSQL 17 and older compile what cannot do without a scan, as that of the incoming rows
    # How soon the server gives up a load whose client has silently gone, and with it the locks that others wait for. A
    # load that is well leaves the server waiting for milliseconds.
    "idle_in_transaction_session_timeout": "5min",
    "tcp_keepalives_idle": "60",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "6",
}


@dataclass(frozen=True)
class LoadResult:
    """What a unit came to; ``already_loaded``: by an earlier call, and nothing was done."""

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
    """Load a unit's rows (``schemas.VALIDATED``) and mark it, in one transaction; a loaded unit is left as it is.

    Rows without reasons go to ``fused_captions``, the others to ``rejected_captions``. A NUL character, which
    PostgreSQL cannot store, becomes U+FFFD. With ``replace``, and in a unit that was planned so, pairs that another
    unit has loaded under the same fusion_id give way, and count as superseded there. A replay's unit takes its pairs
    out of ``rejected_captions`` of the fusion that it replays, whether they pass now or not.

    What raises changes nothing: InputError where the unit is unknown, where its rows are not as many as planned, where
    a pair is in it twice, or where (without ``replace``) another unit has loaded a pair; NotReadyError where the
    connection is lost.
    """
    table = batches if isinstance(batches, pa.Table) else batches.read_all()
    _check(table, unit_id)
    with _transaction(warehouse) as cursor:
        # Whoever loads the same unit at the same time waits here, and then finds it loaded.
        found = _query(
            cursor,
            "select fusion_id, replay_of, existing, state, rows_in, accepted, rejected from capsfusion.work_units"
            " where unit_id = $1 for update",
            unit_id,
        )
        if not found:
            raise InputError(f"the ledger has no work unit {unit_id}; plan it first")
        fusion_id, replay_of, existing, state, rows_in, accepted, rejected = found[0]
        if state == "loaded":
            return LoadResult(accepted, rejected, already_loaded=True)
        if table.num_rows != rows_in:
            raise InputError(
                f"unit {unit_id} was planned with {rows_in} rows and has {table.num_rows}; validate it again"
            )

        cursor.adbc_ingest("incoming", _storable(table), mode="create", temporary=True)
        # What the joins below need to know; analyzing all columns would take a quarter of a load.
        cursor.execute("analyze incoming (pair_id)")
        # One merge at a time under a fusion_id: no constraint spans the tables, and a pair must be in one of them.
        for locked in sorted({fusion_id, replay_of or fusion_id}):  # in one order, so that no two wait for each other
            _query(cursor, f"select pg_advisory_xact_lock({lock_sql('load')})", locked)
        if replay_of:
            _take_from_quarantine(cursor, replay_of, fusion_id, unit_id)
        if replace or existing == "replace":
            # A replay leaves what earlier ones took out: it says what is known of their tries.
            _supersede(cursor, fusion_id, _STORED[:2] if replay_of else _STORED)
        else:
            _refuse_known_pairs(cursor, unit_id, fusion_id)
        _insert(cursor, "fused_captions", "reasons = '{}'", (fusion_id, unit_id, dag_run_id))
        _insert(cursor, "rejected_captions", "reasons <> '{}'", (fusion_id, unit_id, dag_run_id))
        accepted = pc.sum(pc.equal(pc.list_value_length(table["reasons"]), 0)).as_py() or 0
        rejected = table.num_rows - accepted
        cursor.execute(
            "update capsfusion.work_units set state = 'loaded', accepted = $2, rejected = $3, error = null,"
            " loaded_at = now() where unit_id = $1",
            (unit_id, accepted, rejected),
        )
    return LoadResult(accepted, rejected, already_loaded=False)


@contextmanager
def _transaction(warehouse: Warehouse) -> Iterator[Any]:
    """A cursor on a connection of its own: commits when the block ends, rolls back when it raises."""
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
            f"unit {unit_id} cannot be loaded: pair {pair_id} is in the warehouse already, from unit {other}. To "
            "have its captions take the place of the older ones, run it again with existing: replace"
        )


def _take_from_quarantine(cursor: Any, replay_of: str, fusion_id: str, unit_id: str) -> None:
    """Move the rejected captions that the incoming pairs have under ``replay_of`` to ``replayed_captions``.

    Under the same fusion only those whose pairs pass now: a caption that is rejected again takes the older one's place.
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
    """Take out the older rows of the incoming pairs, and count them on the units that brought them."""
    for table in tables:
        cursor.execute(
            f"""
            with gone as (
                delete from capsfusion.{table} old using incoming
                where old.pair_id = incoming.pair_id and old.fusion_id = $1 returning old.unit_id
            )
            update capsfusion.work_units unit set superseded = superseded + lost.rows
            from (select unit_id, count(*) as rows from gone group by unit_id) lost where unit.unit_id = lost.unit_id
            """,  # noqa: S608
            (fusion_id,),
        )


def _insert(cursor: Any, table: str, condition: str, origin: tuple[str, str, str | None]) -> None:
    names = ", ".join(name for name in VALIDATED.names if name != "reasons" or table == "rejected_captions")
    cursor.execute(
        f"insert into capsfusion.{table} ({names}, fusion_id, unit_id, dag_run_id)"  # noqa: S608
        f" select {names}, $1, $2, $3 from incoming where {condition}",
        origin,
    )


def _check(table: pa.Table, unit_id: str) -> None:
    if table.schema.names != VALIDATED.names or table.schema.types != VALIDATED.types:
        raise InputError(f"the rows of unit {unit_id} have the schema\n{table.schema}\nexpected\n{VALIDATED}")
    for field in VALIDATED:
        if not field.nullable and table[field.name].null_count:
            raise InputError(f"unit {unit_id} has rows without {field.name}; validate it again")
    different = pc.count_distinct(table["pair_id"]).as_py()
    if different != table.num_rows:
        raise InputError(f"unit {unit_id} has {table.num_rows} rows and {different} different pairs; plan it again")


def _storable(table: pa.Table) -> pa.Table:
    """The rows as PostgreSQL stores them: pair_id as a uuid, no NUL characters.

    In the order of the key, so that rows that meet in a page of its index come one after the other.
    """
    table = table.sort_by("pair_id")
    columns = [_without_nul(column) for column in table.columns]
    columns[table.schema.get_field_index("pair_id")] = table["pair_id"].cast(pa.uuid())
    return pa.table(columns, names=table.schema.names)


def _without_nul(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if pa.types.is_string(column.type):
        return pc.replace_substring(column, NUL, REPLACEMENT)
    if pa.types.is_list(column.type):
        lists = column.combine_chunks()
        return pa.chunked_array(
            [pa.ListArray.from_arrays(lists.offsets, pc.replace_substring(lists.values, NUL, REPLACEMENT))]
        )
    return column
