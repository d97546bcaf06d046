"""The advisory locks of the warehouse, and their numbers in PostgreSQL.

PostgreSQL identifies an advisory lock by a 64-bit number, so a lock's name is hashed: `hashtextextended` of
"capsfusion.<kind> <name>". Two names with the same number share a lock. A process may then wait for unrelated work, or
fail with NotReadyError, but no data are lost. Only locks that are held at the same time can collide: one for each unit
that is being fused, and a few for each fusion. Among 10,000 such locks, the probability of a collision is
10,000² / 2⁶⁵, which is 3 in 10¹².
"""

from __future__ import annotations

from typing import Any, Literal

from sqlalchemy import ColumnElement, func

Kind = Literal[
    "migrate",  # the schema is being migrated
    "staging",  # the layout of a staging area is being chosen
    "image_results",  # image results are being read into a staging area
    "plan",  # units of a fusion are being planned
    "load",  # rows of a fusion are being merged into the tables of captions
    "replay",  # a replay of a fusion's rejected captions is being planned
    "replay.run",  # a replay is running
    "hold",  # the message about the held units of a run is being sent
    "unit",  # a unit is being fused (shared lock), or is being repaired or deleted (exclusive lock)
    "export",  # an export to a folder is being written
    "lake",  # units are being written to an Iceberg table, or its files are being rewritten
]


def lock_key(kind: Kind, name: str | ColumnElement[str] = "") -> ColumnElement[Any]:
    """The number of a lock, for `pg_advisory_lock` and similar functions. ``name`` may be a column."""
    return func.hashtextextended(func.concat(f"capsfusion.{kind} ", name), 0)


def lock_sql(kind: Kind) -> str:
    """SQL for the number of a lock, in a statement whose first parameter, ``$1``, is the lock's name."""
    return f"hashtextextended('capsfusion.{kind} ' || $1, 0)"
