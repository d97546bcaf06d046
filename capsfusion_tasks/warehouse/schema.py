"""The warehouse's schema ``capsfusion``: its name, its metadata, and columns that several tables have."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    CheckConstraint,
    Column,
    MetaData,
    Text,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP

SCHEMA = "capsfusion"
VERSION_TABLE = "schema_version"  # the table in which Alembic stores the schema's version

metadata = MetaData(
    schema=SCHEMA,
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
        "uq": "%(table_name)s_%(column_0_name)s_key",
        "ix": "%(table_name)s_%(column_0_name)s_idx",
        "ck": "%(table_name)s_%(constraint_name)s_check",
    },
)


def text_column(name: str, **options: Any) -> Column[str]:
    return Column(name, Text, nullable=options.pop("nullable", False), **options)


def time_column(name: str, **options: Any) -> Column[Any]:
    return Column(name, TIMESTAMP(timezone=True), nullable=options.pop("nullable", False), **options)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} in ({', '.join(repr(value) for value in values)})", name=column)
