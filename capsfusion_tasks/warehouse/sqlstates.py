"""Classifies PostgreSQL's errors: some are temporary, for others the user must change something.

The class follows from the SQLSTATE, a code of five characters. PostgreSQL translates its messages, but not this code:
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import psycopg
from sqlalchemy import URL
from sqlalchemy.exc import DBAPIError, OperationalError

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse import libpq_variables
from capsfusion_tasks.warehouse.handshake import FailedHandshake, failed_handshake
from capsfusion_tasks.warehouse.url import describe, libpq_uri

READ_ONLY = "25006"
UNDEFINED_COLUMN, UNDEFINED_TABLE = "42703", "42P01"
# A lasting error. Stands for a refusal without a SQLSTATE, and for a write that was refused because the session is
# read-only: a retry does not help then, although READ_ONLY is temporary in other cases.
REFUSED = "42000"
# Temporary errors: first their classes (the first two characters of the SQLSTATE), then single SQLSTATEs.
_PASSING_CLASSES = (
    "08",  # connection exception
    "40",  # transaction rollback: a deadlock, or a conflict with a standby's recovery
    "53",  # insufficient resources: disk, memory, connections
    "57",  # operator intervention: shutdown, start, cancelled query
    "58",  # system error: input and output
)
_PASSING = (
    READ_ONLY,  # a standby may be promoted; some services make a database read-only while its disk is full
    "25P03",  # idle_in_transaction_session_timeout, after this machine was suspended
    "25P04",  # transaction_timeout
    "55006",  # object in use
    "55P03",  # lock not available
)
_LASTING = ("57P04",)  # database dropped: not temporary, although the other errors of class 57 are
# Lasting errors that a user or an administrator can fix. A SQLSTATE in none of these lists is a bug of this program.
_USERS_CLASSES = (
    "28",  # invalid authorization
    "3D",  # database does not exist
    "3F",  # schema does not exist
    "54",  # program limit exceeded, for example a key that is too long for its index
)
_USERS = (
    "22021",  # character not in the database's encoding
    "22P05",  # character not in the client's encoding
    "42501",  # insufficient privilege
    "42703",  # undefined column, because a table was changed by hand
    "42P01",  # undefined table
    "55000",  # the database accepts no connections
)


def may_pass(sqlstate: str) -> bool:
    """Whether the same statement or connection may succeed later."""
    return sqlstate not in _LASTING and (sqlstate in _PASSING or sqlstate.startswith(_PASSING_CLASSES))


def user_error(url: URL, said: str, sqlstate: str | None) -> InputError | NotReadyError:
    """The error to raise for a failure with the message ``said``. ``sqlstate`` is None if the connection was lost."""
    said = said.rstrip(".")
    if sqlstate == READ_ONLY:
        return NotReadyError(
            f"the warehouse, {describe(url)}, is read-only: name the primary server in CAPSFUSION_WAREHOUSE_URL, or try"
            " again once this server accepts writes"
        )
    if sqlstate is None or may_pass(sqlstate):
        return NotReadyError(
            f"the warehouse, {describe(url)}, failed: {said}; try again: no work is left half done or done twice"
        )
    return InputError(f"the warehouse, {describe(url)}, refuses the request: {said}")


def from_psycopg(url: URL, error: DBAPIError | psycopg.Error) -> InputError | NotReadyError | None:
    """The error to raise for a failed statement. None if the error is a bug of this program."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = getattr(cause, "sqlstate", None)
    if code is None:
        lost = isinstance(error, (OperationalError, psycopg.OperationalError))
        return user_error(url, one_line(cause), None) if lost else None
    if may_pass(code) or code in _USERS or code in _LASTING or code.startswith(_USERS_CLASSES):
        return user_error(url, one_line(cause), code)
    return None


def unreachable(url: URL, said: str) -> InputError | NotReadyError:
    """The error to raise if no connection could be opened. ``said``: the message of the failed attempt."""
    message = f"the warehouse, {describe(url)}, does not answer: {said}"
    failure = failed_handshake(libpq_uri(url))
    variables = libpq_variables.to_check(url, failure)
    check = f"check {' and '.join(['CAPSFUSION_WAREHOUSE_URL', *variables])}"
    if lasts(failure):
        return InputError(f"{message}; {check}")
    return NotReadyError(f"{message}; start it, {check}, or unset the URL to use the embedded database")


def lasts(failure: FailedHandshake) -> bool:
    """Whether every later attempt to connect would fail in the same way."""
    return failure.lasts or (failure.sqlstate is not None and not may_pass(failure.sqlstate))


def one_line(error: object) -> str:
    """The error's message without its line breaks."""
    return " ".join(str(error).split())
