"""Conditions on long lists of values, as one parameter of a statement."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sqlalchemy import ColumnElement, any_, literal
from sqlalchemy.dialects.postgresql import ARRAY


def among(column: ColumnElement[Any], values: Iterable[Any]) -> ColumnElement[bool]:
    """Whether ``column`` is one of ``values``, which are sent as one array.

    ``column.in_(values)`` sends each value as a parameter, and PostgreSQL allows 65,535 parameters.
    """
    return column == any_(literal([*values], ARRAY(column.type)))
