"""Compares a column with a long list of values, and sends the whole list as one parameter of the statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, any_, literal
from sqlalchemy.dialects.postgresql import ARRAY


def among(column: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Whether ``column`` is one of ``values``, which are sent as one array.

    Use this for long lists. ``column.in_(values)`` would send each value as a parameter, and PostgreSQL allows at most
    65,535 parameters.
    """
    return column == any_(literal([*values], ARRAY(column.type)))
