"""Refuses a condition (--where) of an export if its value may change before an interrupted export is resumed."""

from __future__ import annotations

import re
from collections.abc import Callable

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.schema import SCHEMA

_STRING = re.compile(r"'((?:[^']|'')*)'")
_CALL = re.compile(r'([\w$]+)"?\(')
_CLOCK = re.compile(r"\b(current_date|current_time|current_timestamp|localtime|localtimestamp)\b", re.IGNORECASE)
_TABLE = re.compile(rf"\bon {SCHEMA}\.(\w+)(?: (\w+))?$", re.MULTILINE)

# PostgreSQL converts these words to a time that depends on the clock, for example in `timestamptz 'now'`.
_NOW = re.compile(r"now|today|tomorrow|yesterday", re.IGNORECASE)
# Other words that may be in the same string, for example in `timestamptz 'today 10:30 utc'`.
_WITH_NOW = re.compile(r"[\d:.+-]+\w*|z|zulu|utc|gmt|allballs|am|pm", re.IGNORECASE)

# The tables that a subquery may read, each with its columns that can change after captions were loaded. For example,
# every listing of the sources sets shards.seen_at. None of these columns may have the name of a column of
# fused_captions, because the check compares names of columns without their tables.
_LASTING: dict[str, set[str]] = {
    "fusions": set(),
    "shards": {"adopted_by", "dropped", "error", "seen_at", "state", "updated_at"},
    "work_units": {"superseded", "superseded_accepted"},
}

# Selects, from a list of functions, those whose value can change: the volatile ones, and the stable ones without
# arguments, because such functions read the clock or the session.
_CHANGING = (
    "select distinct proname from pg_proc where proname = any(string_to_array('{}', ','))"
    " and (provolatile = 'v' or (provolatile = 's' and pronargs = 0)) order by 1"
)


def refuse_changing(condition: str, plan: str, ask: Callable[[str], list[str]]) -> None:
    """Raise InputError if an export with ``condition`` could select other captions when it is resumed.

    ``plan``: PostgreSQL's plan (`explain verbose`) of a query on ``fused_captions captions`` with the condition. The
    plan shows the real names of functions and tables, and shows constant expressions as values. ``ask`` runs a query
    and returns its only column.
    """
    for text in _STRING.findall(condition):
        words = text.split()
        if any(map(_NOW.fullmatch, words)) and all(_NOW.fullmatch(word) or _WITH_NOW.fullmatch(word) for word in words):
            raise _error(f"'{text}'")
    plan = _STRING.sub("", plan)
    if clock := _CLOCK.search(plan):
        raise _error(clock[0].lower())
    if called := ask(_CHANGING.format(",".join(sorted({*_CALL.findall(plan)})))):
        raise _error(called[0])
    words = {word.lower() for word in re.findall(r"\w+", _STRING.sub("", condition))}
    for table, alias in _TABLE.findall(plan):
        if table not in _LASTING and (table, alias) != ("fused_captions", "captions"):
            raise InputError(
                f"--where queries the table {table}, which may change before an interrupted export is resumed: query"
                f" only {', '.join(_LASTING)}"
            )
        if changing := sorted(words & _LASTING.get(table, set())):
            raise InputError(
                f"--where queries {table}.{changing[0]}, which may change before an interrupted export is resumed: use"
                " other columns"
            )


def _error(what: str) -> InputError:
    return InputError(f"--where has {what}, whose value changes with each attempt of the export: write a fixed value")
