"""Locks that show which work units (rows of one GPU task) are being fused.

PostgreSQL releases a lock when the worker ends or crashes.

A unit's state `fusing` alone does not show whether the worker still runs. Several processes can hold a unit's lock at
once (a shared lock), because the previous attempt of a task may still run when Airflow retries the task. Both attempts
may continue: if both fuse a row, only one of the results is used.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, func, select, text, update
from sqlalchemy.exc import OperationalError

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.locks import lock_key
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope
from capsfusion_tasks.warehouse.sessions import KEEPALIVE
from capsfusion_tasks.warehouse.writable import require_writable

log = logging.getLogger(__name__)

# How often a worker checks that it still has its unit's lock. If the server was restarted, the worker takes the lock
# again.
_BEAT_SECONDS = 30.0
_PATIENCE_SECONDS = 60.0
_RETRY_SECONDS = 0.5

# The numbers of all advisory locks that processes hold in this database.
_HELD = text(
    "select (classid::bigint << 32) | objid::bigint from pg_locks"
    " where locktype = 'advisory' and objsubid = 1 and granted"
    " and database = (select oid from pg_database where datname = current_database())"
)


@contextmanager
def at_work(engine: Engine, unit_id: str) -> Iterator[None]:
    """Hold the unit's lock during the ``with`` block.

    Raises NotReadyError if the warehouse does not answer or is read-only, or if another process plans or repairs the
    unit (``keep_others_off``). Raises InputError if this login cannot load captions. If the connection is lost later,
    the work continues, and the lock is taken again.
    """
    with engine.connect() as connection:
        require_writable(connection)
    held, taken, ended = threading.Event(), threading.Event(), threading.Event()
    holder = threading.Thread(target=_hold, args=(engine, unit_id, held, taken, ended), name=f"at work on {unit_id}")
    holder.daemon = True
    holder.start()
    try:
        if not held.wait(_PATIENCE_SECONDS):
            if taken.is_set():
                raise NotReadyError(
                    f"another process is planning or repairing unit {unit_id}; try again when it has ended"
                )
            raise NotReadyError(f"the warehouse does not answer, so unit {unit_id} cannot be locked; try again")
        yield
    finally:
        ended.set()
        holder.join()


def _hold(engine: Engine, unit_id: str, held: threading.Event, taken: threading.Event, ended: threading.Event) -> None:
    """Hold the unit's lock until ``ended`` is set.

    Sets ``held`` when this thread has the lock. Sets ``taken`` if the thread must wait, because another process has it.
    """
    while not ended.is_set():
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                try:
                    # With these settings, the server notices within minutes that this machine is gone, and then
                    # releases the lock.
                    for name, value in KEEPALIVE.items():
                        connection.execute(select(func.set_config(name, value, False)))
                    lock = select(func.pg_try_advisory_lock_shared(lock_key("unit", unit_id)))
                    while not connection.scalar(lock):  # wait here, because ``ended`` cannot stop a wait in the server
                        taken.set()
                        if ended.wait(_RETRY_SECONDS):
                            return
                    held.set()
                    while not ended.wait(_BEAT_SECONDS):
                        connection.execute(select(1))
                finally:
                    connection.invalidate()  # close the connection: an open connection in the pool would keep the lock
        except OperationalError as error:
            log.warning(
                "lost the connection to the warehouse while fusing unit %s; fusing continues: %s", unit_id, error.orig
            )
            ended.wait(_BEAT_SECONDS)


def abandoned_units(engine: Engine, scope: Scope = EVERYTHING) -> list[str]:
    """Ids of the units that have the state "fusing", but whose lock no process holds."""
    units = work_units.c
    fusing = select(units.unit_id, units.tries, lock_key("unit", units.unit_id)).where(
        units.state == "fusing", scope.clause()
    )
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        before = connection.execute(fusing).all()
        held = set(connection.scalars(_HELD))
        # Read the units again: if a worker finished its unit between the first query and the query of the locks, the
        # unit has no lock, but is not abandoned. Its state has changed.
        after = {tuple(row) for row in connection.execute(fusing)}
    return sorted(row[0] for row in before if tuple(row) in after and row[2] not in held)


@contextmanager
def alone_with(engine: Engine, unit_id: str) -> Iterator[Connection]:
    """A transaction during which no task can start to fuse the unit. Raises NotReadyError if a task fuses the unit."""
    with engine.begin() as connection:
        keep_others_off(connection, unit_id)
        yield connection


def keep_others_off(connection: Connection, unit_id: str) -> None:
    """Until the caller's transaction ends, no task can start to fuse the unit.

    Raises NotReadyError if a task fuses the unit.
    """
    if not connection.scalar(select(func.pg_try_advisory_xact_lock(lock_key("unit", unit_id)))):
        raise NotReadyError(f"another process is fusing unit {unit_id}; try again when it has ended")


def put_back(engine: Engine, unit_id: str) -> None:
    """Set the state of a unit to "planned", unless the unit is loaded."""
    mine = (work_units.c.unit_id == unit_id, work_units.c.state != "loaded")
    with alone_with(engine, unit_id) as connection:
        connection.execute(update(work_units).where(*mine).values(state="planned", error=None))
