"""Database sessions that hold advisory locks across short transactions.

Between its transactions, a session holds its locks but no snapshot. So PostgreSQL's vacuum can remove old rows while
the process reads files for minutes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, func, select, text

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.warehouse.locks import Kind, lock_key

log = logging.getLogger(__name__)

# With these settings, the server notices within minutes that the client is gone, and releases the client's locks.
KEEPALIVE = {"tcp_keepalives_idle": "60", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "6"}

_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 0.05, 1.0

_HELD = text(
    "select (classid::bigint << 32) | objid::bigint from pg_locks"
    " where locktype = 'advisory' and objsubid = 1 and granted and pid = pg_backend_pid()"
)


class LockedSession:
    """A session of the database and the advisory locks that it holds. Use ``locked_session`` to get one."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locks: dict[int, str] = {}  # number of a lock → its kind and name, for errors

    def lock(self, kind: Kind, name: str) -> None:
        """Wait for the lock, and hold it until the session ends.

        To avoid deadlocks, all processes must take locks in the same order.
        """
        wait = _FIRST_WAIT_SECONDS
        # Try repeatedly: a single statement that waits for the lock would keep a snapshot while it waits.
        while not self.try_lock(kind, name):
            if wait == _FIRST_WAIT_SECONDS:
                log.info("another process holds the lock %r: waiting for it", f"{kind} {name}")
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_WAIT_SECONDS)

    def try_lock(self, kind: Kind, name: str) -> bool:
        """Take the lock if no other session holds it, and hold it until this session ends.

        Returns whether the lock was taken.
        """
        with self.transaction() as connection:
            number = int(connection.scalar(select(lock_key(kind, name))) or 0)
            taken = bool(connection.scalar(select(func.pg_try_advisory_lock(number))))
        if taken:
            self._locks[number] = f"{kind} {name}"
        return taken

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction of the session. Raises NotReadyError if the session has lost a lock.

        After a restart of the server, SQLAlchemy connects again by itself, without the locks. A pooler such as
        PgBouncer may give each transaction another session. In both cases, another process may have taken the lock.
        """
        with self._connection.begin():
            if self._locks and (lost := self._locks.keys() - set(self._connection.scalars(_HELD))):
                raise NotReadyError(
                    f"the connection to the warehouse was lost, and with it the lock {self._locks[min(lost)]!r}; try"
                    " again. If the error persists, connect without a pooler that pools transactions, such as PgBouncer"
                )
            yield self._connection


@contextmanager
def locked_session(engine: Engine) -> Iterator[LockedSession]:
    """A new session. Its locks are released at the end of the ``with`` block, or when this process ends."""
    with engine.connect() as connection:
        try:
            with connection.begin():
                for name, value in KEEPALIVE.items():
                    connection.execute(select(func.set_config(name, value, False)))
            yield LockedSession(connection)
        finally:
            connection.invalidate()  # close the connection: an open one in the pool would keep its locks and settings
