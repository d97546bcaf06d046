"""Rejected captions as what a replay starts from: which they are, and which of them are spoken for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import psycopg
import pyarrow as pa
from psycopg import sql
from sqlalchemy import Connection, Engine, and_, func, select

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import CAPTION, FUSED, PAIRS, Replay
from capsfusion_tasks.warehouse.adbc_session import adbc_session, batches
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.locks import lock_key
from capsfusion_tasks.warehouse.tables import fused_captions, fusions, rejected_captions, replayed_captions, work_units


def lock_planning(connection: Connection, fusion_id: str) -> None:
    """Until the transaction ends, no other process plans a replay of this fusion's rejections; others wait."""
    connection.execute(select(func.pg_advisory_xact_lock(lock_key("replay", fusion_id))))


@contextmanager
def sole_run(engine: Engine, name: str) -> Iterator[None]:
    """No other process runs the replay ``name`` in such a block; raises NotReadyError where one does."""
    lock = func.pg_try_advisory_lock(lock_key("replay.run", name))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(select(lock)):
            raise NotReadyError("this replay is running in another process: wait for it")
        try:
            yield
        finally:
            connection.invalidate()  # not back into the pool: the lock goes when it closes


def require_fusion(connection: Connection, fusion_id: str) -> None:
    """Raise InputError, with those that there are, where the warehouse has no fusion of this id."""
    known = {row.fusion_id: row.model for row in connection.execute(select(fusions.c.fusion_id, fusions.c.model))}
    if fusion_id not in known:
        names = ", ".join(f"{known_id} ({model})" for known_id, model in sorted(known.items())) or "none"
        raise InputError(f"the warehouse has no rejected captions of fusion {fusion_id}; its fusions: {names}")


def matching(connection: Connection, replay: Replay) -> int:
    """How many rejected captions meet what the replay asks for, spoken for or not, and without its limit."""
    query = sql.SQL("select count(*) from capsfusion.rejected_captions where {}").format(_asked(replay))
    return int(_value(connection, query))


def has_failed(connection: Connection, replay: Replay) -> bool:
    """Whether some of them are no captions, but rows that the model could not fuse."""
    query = sql.SQL(
        "select exists (select from capsfusion.rejected_captions where {} and finish_reason like 'error%')"
    ).format(_asked(replay))
    return bool(_value(connection, query))


def _value(connection: Connection, query: sql.Composed) -> Any:
    driver = cast(psycopg.Connection[tuple[Any, ...]], connection.connection.driver_connection)
    [row] = driver.execute(query).fetchall()
    return row[0]


def moved(connection: Connection, name: str) -> int:
    """How many captions the replay ``name`` took out of quarantine whose pairs it brought to ``fused_captions``."""
    statement = (
        select(func.count())
        .select_from(replayed_captions)
        .join(work_units, work_units.c.unit_id == replayed_captions.c.replayed_by)
        .join(
            fused_captions,
            and_(
                fused_captions.c.pair_id == replayed_captions.c.pair_id,
                fused_captions.c.fusion_id == work_units.c.fusion_id,
                fused_captions.c.unit_id == work_units.c.unit_id,
            ),
        )
        .where(work_units.c.replay == name)
    )
    return int(connection.execute(statement).scalar_one())


def units_in_flight(connection: Connection, fusion_id: str) -> list[str]:
    """Units of replays of this fusion, under any other, that are on their way to the warehouse; not failed ones."""
    units = work_units.c
    statement = select(units.unit_id).where(units.replay_of == fusion_id, units.state.not_in(("loaded", "failed")))
    return list(connection.scalars(statement.order_by(units.unit_id)))


def rejected_pairs(
    warehouse: Warehouse, replay: Replay, *, untried_under: str | None, most: int | None
) -> Iterator[pa.Table]:
    """The pairs (``schemas.PAIRS``) of the captions that the replay asks for, by pair_id, streamed, ``most`` at most.

    ``untried_under`` leaves out the pairs that were ever loaded under that fusion_id.
    """
    columns = [
        sql.SQL("uuid_send(pair_id) as pair_id") if name == "pair_id" else sql.Identifier(name) for name in PAIRS.names
    ]
    tried = sql.SQL(
        " and not exists (select from capsfusion.{} tried"
        " where tried.pair_id = rejected.pair_id and tried.fusion_id = {})"
    )
    tables = ("fused_captions", "rejected_captions", "replayed_captions") if untried_under is not None else ()
    query = sql.SQL(
        "select {} from capsfusion.rejected_captions rejected where {}{} order by rejected.pair_id{}"
    ).format(
        sql.SQL(", ").join(columns),
        _asked(replay),
        sql.SQL("").join(tried.format(sql.Identifier(table), sql.Literal(untried_under)) for table in tables),
        sql.SQL("") if most is None else sql.SQL(" limit {}").format(sql.Literal(most)),
    )
    # With COPY, the driver's default: without it the driver holds the whole result.
    with adbc_session(warehouse, read_only=True) as connection, connection.cursor() as cursor:
        cursor.execute(query.as_string())
        for batch in batches(warehouse, connection, cursor.fetch_record_batch()):
            yield pa.Table.from_batches([batch]).cast(PAIRS)


def _asked(replay: Replay) -> sql.Composed:
    """The replay's conditions on a row of ``rejected_captions``."""
    conditions = [sql.SQL("fusion_id = {}").format(sql.Literal(replay.fusion_id))]
    if replay.reasons:
        conditions.append(sql.SQL("reasons && {}::text[]").format(sql.Literal(list(replay.reasons))))
    if replay.loaded_from is not None:
        conditions.append(sql.SQL("loaded_at >= {}").format(sql.Literal(replay.loaded_from)))
    if replay.loaded_before is not None:
        conditions.append(sql.SQL("loaded_at < {}").format(sql.Literal(replay.loaded_before)))
    return sql.SQL(" and ").join(conditions)


def stored_captions(connection: Connection, fusion_id: str, pair_ids: pa.ChunkedArray) -> pa.Table:
    """What the model made of those of ``pair_ids`` (binary(16)) that are in quarantine under the fusion; without those
    that it could not fuse.

    Columns ``row``, the place in ``pair_ids``, and those of ``schemas.CAPTION``.
    """
    ids = [UUID(bytes=pair_id) for pair_id in pair_ids.to_pylist()]
    rows = {pair_id: row for row, pair_id in enumerate(ids)}
    names = CAPTION.names
    captions = rejected_captions.c
    statement = select(captions.pair_id, *(captions[name] for name in names)).where(
        captions.fusion_id == fusion_id, captions.pair_id.in_(ids), captions.finish_reason.not_like("error%")
    )
    found = [
        {"row": rows[row["pair_id"]], **{name: row[name] for name in names}}
        for row in connection.execute(statement).mappings()
    ]
    return pa.Table.from_pylist(found, schema=pa.schema([FUSED.field("row"), *CAPTION]))
