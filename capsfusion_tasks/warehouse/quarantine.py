"""Finds the rejected captions that a replay selects, and the unfinished work units of replays.

A replay takes rejected captions, and fuses their pairs again or validates the captions again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import UUID

import psycopg
import pyarrow as pa
from psycopg import sql
from sqlalchemy import Connection, Engine, and_, func, select, true

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import PAIRS, Replay, fused_schema
from capsfusion_tasks.warehouse.adbc_session import adbc_session, stream
from capsfusion_tasks.warehouse.arrays import among
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.fusions import keeps_beams
from capsfusion_tasks.warehouse.ledger_tables import fusions, work_units
from capsfusion_tasks.warehouse.locks import lock_key
from capsfusion_tasks.warehouse.readable import condition_sql


@contextmanager
def sole_run(engine: Engine, name: str) -> Iterator[None]:
    """Lock the replay ``name`` during the ``with`` block. Raises NotReadyError if another process runs this replay."""
    lock = func.pg_try_advisory_lock(lock_key("replay.run", name))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(select(lock)):
            raise NotReadyError("another process runs this replay; try again when it has ended")
        try:
            yield
        finally:
            connection.invalidate()  # close the connection: an open connection in the pool would keep the lock


def require_fusion(connection: Connection, fusion_id: str) -> None:
    """Raise InputError for an unknown fusion_id (model and settings). The message lists the known fusion_ids."""
    known = {row.fusion_id: row.model for row in connection.execute(select(fusions.c.fusion_id, fusions.c.model))}
    if fusion_id not in known:
        names = ", ".join(f"{known_id} ({model})" for known_id, model in sorted(known.items())) or "none"
        raise InputError(
            f"the warehouse has no fusion_id {fusion_id}, so there is nothing to replay; its fusion_ids: {names}"
        )


def matching(connection: Connection, replay: Replay) -> int:
    """Number of rejected captions that meet the replay's conditions.

    Includes captions that exceed the replay's limit or that are in another replay's units.
    """
    rejected = sql.SQL("select count(*) from capsfusion.rejected_captions rejected where {}")
    query = rejected.format(_asked(connection, replay))
    return int(_value(connection, query))


def has_failed(connection: Connection, replay: Replay) -> bool:
    """Whether any row that meets the replay's conditions has no caption, because fusing the row failed."""
    query = sql.SQL(
        "select exists (select from capsfusion.rejected_captions rejected where {} and finish_reason like 'error%')"
    ).format(_asked(connection, replay))
    return bool(_value(connection, query))


def _value(connection: Connection, query: sql.Composed) -> Any:
    driver = cast(psycopg.Connection[tuple[Any, ...]], connection.connection.driver_connection)
    [row] = driver.execute(query).fetchall()
    return row[0]


def moved(connection: Connection, name: str, fusion_id: str | None, unit_ids: Sequence[str] | None = None) -> int:
    """Number of pairs that the replay ``name`` moved from ``rejected_captions`` to ``fused_captions``.

    ``fusion_id``: that of the new captions. A replay of the same name may have run with another model before.
    ``unit_ids``: count only pairs that these work units moved.
    """
    mine = true() if unit_ids is None else among(work_units.c.unit_id, unit_ids)
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
        .where(work_units.c.replay == name, work_units.c.fusion_id == fusion_id, mine)
    )
    return int(connection.execute(statement).scalar_one())


def units_in_flight(connection: Connection, fusion_id: str) -> list[str]:
    """Ids of the units that replay rejected captions with this fusion_id and are neither loaded nor failed.

    A replay can use other decoding settings, so the units can have another fusion_id than the rejected captions.
    """
    units = work_units.c
    statement = select(units.unit_id).where(units.replay_of == fusion_id, units.state.not_in(("loaded", "failed")))
    return list(connection.scalars(statement.order_by(units.unit_id)))


def rejected_pairs(
    warehouse: Warehouse,
    replay: Replay,
    *,
    untried_under: str | None,
    not_of: Sequence[str],
    most: int | None,
) -> Iterator[pa.Table]:
    """Stream the pairs (``schemas.PAIRS``) that the replay selects.

    ``untried_under``: leave out pairs that were ever loaded with this fusion_id. ``not_of``: leave out captions of
    these units. ``most``: maximum number of pairs; selects the captions with the earliest ``loaded_at``. A caption that
    is rejected again gets a new ``loaded_at``, so the next replay with a limit selects other captions first.
    """
    columns = [
        sql.SQL("uuid_send(pair_id) as pair_id") if name == "pair_id" else sql.Identifier(name) for name in PAIRS.names
    ]
    tried = sql.SQL(
        " and not exists (select from capsfusion.{} tried"
        " where tried.pair_id = rejected.pair_id and tried.fusion_id = {})"
    )
    tables = ("fused_captions", "rejected_captions", "replayed_captions") if untried_under is not None else ()
    with warehouse.engine.connect() as opened:
        asked = _asked(opened, replay)
    query = sql.SQL(
        "select {} from capsfusion.rejected_captions rejected where {}{} and unit_id <> all({}::text[]) order by {}"
    ).format(
        sql.SQL(", ").join(columns),
        asked,
        sql.SQL("").join(tried.format(sql.Identifier(table), sql.Literal(untried_under)) for table in tables),
        sql.Literal(list(not_of)),
        sql.SQL("rejected.pair_id")
        if most is None
        else sql.SQL("rejected.loaded_at, rejected.pair_id limit {}").format(sql.Literal(most)),
    )
    # Use COPY, the driver's default. Without COPY, the driver would keep the whole result in memory.
    with adbc_session(warehouse, read_only=True) as connection, connection.cursor() as cursor:
        _, batches = stream(warehouse, connection, cursor, query.as_string())
        for batch in batches:
            yield pa.Table.from_batches([batch]).cast(PAIRS)


def _asked(connection: Connection, replay: Replay) -> sql.Composed:
    """The replay's conditions on ``rejected_captions``. The query must give this table the alias ``rejected``."""
    conditions = [sql.SQL("fusion_id = {}").format(sql.Literal(replay.fusion_id))]
    if replay.reasons:
        conditions.append(sql.SQL("reasons && {}::text[]").format(sql.Literal(list(replay.reasons))))
    if replay.loaded_from is not None:
        conditions.append(sql.SQL("loaded_at >= {}").format(sql.Literal(replay.loaded_from)))
    if replay.loaded_before is not None:
        conditions.append(sql.SQL("loaded_at < {}").format(sql.Literal(replay.loaded_before)))
    if replay.filter is not None:
        found = condition_sql(connection, replay.filter, rejected_captions.alias("rejected"))
        conditions.append(sql.SQL("({})").format(sql.SQL(found)))
    return sql.SQL(" and ").join(conditions)


def stored_captions(connection: Connection, fusion_id: str, pair_ids: pa.ChunkedArray) -> pa.Table:
    """The rejected captions with this fusion_id of the pairs ``pair_ids`` (binary(16)), except if fusing failed.

    Columns: those of ``schemas.fused_schema`` without ``input``; ``row`` is the index of the pair in ``pair_ids``.
    """
    schema = fused_schema(with_beams=keeps_beams(connection, fusion_id))
    schema = schema.remove(schema.get_field_index("input"))
    ids = [UUID(bytes=pair_id) for pair_id in pair_ids.to_pylist()]
    rows = {pair_id: row for row, pair_id in enumerate(ids)}
    names = schema.names[1:]
    captions = rejected_captions.c
    statement = select(captions.pair_id, *(captions[name] for name in names)).where(
        captions.fusion_id == fusion_id, among(captions.pair_id, ids), captions.finish_reason.not_like("error%")
    )
    found = [
        {"row": rows[row["pair_id"]], **{name: row[name] for name in names}}
        for row in connection.execute(statement).mappings()
    ]
    return pa.Table.from_pylist(found, schema=schema)
