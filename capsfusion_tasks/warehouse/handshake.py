"""Finds out why a server accepts no connection. Ignores the text of the server's messages, which may be translated.

If a connection attempt fails, libpq reports a message, but no SQLSTATE. Therefore this module makes libpq write a trace
of the protocol's messages. In this trace, an ErrorResponse has the SQLSTATE in its field C.
"""

from __future__ import annotations

import os
import re
import select
import sys
import time
from dataclasses import dataclass

from psycopg import pq

_SECONDS = 10.0  # time limit for the repeated connection attempt
# One traced message: its direction (F: to the server, B: from it), its length, its name and its fields.
_MESSAGE = re.compile(r"^\S+ \S+\t[FB]\t\d+\t(\w+)(.*)$", re.MULTILINE)
_SQLSTATE = re.compile(r' C "([0-9A-Z]{5})"')


@dataclass(frozen=True)
class FailedHandshake:
    """``sqlstate``: the server's reason for the failure. None if the server gave none.

    ``lasts``: whether another attempt would fail in the same way. False if there is an SQLSTATE, which shows the same.
    """

    sqlstate: str | None = None
    lasts: bool = False


def failed_handshake(conninfo: str) -> FailedHandshake:
    """Repeat a failed connection attempt, and read from the protocol's messages why it fails."""
    connection = pq.PGconn.connect_start(conninfo.encode())
    try:
        if connection.status == pq.ConnStatus.BAD:
            # NO_ATTEMPT: libpq rejects a parameter. Any other result: the network or the host cannot be reached.
            return FailedHandshake(lasts=pq.PGconn.ping(conninfo.encode()) == pq.Ping.NO_ATTEMPT)
        messages = _messages(connection)
        errors = [fields for name, fields in messages if name == "ErrorResponse"]
        if errors and (code := _SQLSTATE.search(errors[-1])):
            return FailedHandshake(code[1])
        # If TLS is refused or the certificate is wrong, libpq ends the attempt without a message to the server.
        without_tls = bool(messages) and messages[-1][0] == "SSLResponse"
        return FailedHandshake(lasts=without_tls or connection.needs_password)
    finally:
        connection.finish()


def _messages(connection: pq.abc.PGconn) -> list[tuple[str, str]]:
    """Run the connection attempt to its end. Returns (name, fields) of each message."""
    if sys.platform != "linux":  # memfd_create exists only on Linux
        _poll(connection)
        return []
    trace = os.memfd_create("libpq")  # in memory, because the trace may contain a password
    try:
        connection.trace(trace)
        _poll(connection)
        connection.untrace()
        text = os.pread(trace, os.fstat(trace).st_size, 0).decode(errors="replace")
    finally:
        os.close(trace)
    return [(found[1], found[2]) for found in _MESSAGE.finditer(text)]


def _poll(connection: pq.abc.PGconn) -> None:
    deadline = time.monotonic() + _SECONDS
    while (left := deadline - time.monotonic()) > 0:
        match connection.connect_poll():
            case pq.PollingStatus.READING:
                _wait(connection.socket, select.POLLIN, left)
            case pq.PollingStatus.WRITING:
                _wait(connection.socket, select.POLLOUT, left)
            case _:
                return


def _wait(socket: int, event: int, seconds: float) -> None:
    poller = select.poll()  # select.select fails for file descriptors above 1023
    poller.register(socket, event)
    poller.poll(1000 * seconds)
