"""Compares the warehouse's contents after a run with the contents after an undisturbed run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from capsfusion_tasks.warehouse.consistency import violations

_CONTENT = "pair_id::text, fusion_id, image_url, laion_2b, laion_coco, laion_hash, capsfusion, finish_reason"
_ROWS = f"""
select {_CONTENT}, array[]::text[] as reasons from capsfusion.fused_captions
union all
select {_CONTENT}, reasons from capsfusion.rejected_captions
order by 1, 2
"""
_UNITS = "select unit_id, state, rows_in, accepted, rejected, superseded from capsfusion.work_units order by 1"

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Table:
    rows: list[Row]  # the columns to compare: pair_id first, then texts, verdicts and reasons
    units: list[Row]
    problems: tuple[str, ...] = ()  # contradictions that the consistency queries found in the warehouse


@dataclass(frozen=True)
class Difference:
    """How two tables differ: the numbers of lost, doubled and changed rows, and other problems as text."""

    lost: int = 0
    doubled: int = 0
    changed: int = 0
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.lost or self.doubled or self.changed or self.problems)


def read_table(connection: Connection) -> Table:
    def select(statement: str) -> list[Row]:
        rows = connection.execute(text(statement))
        return [tuple(tuple(value) if isinstance(value, list) else value for value in row) for row in rows]

    broken = tuple(f"{found.rule}: does not hold for {found.unit_id}, {found.what}" for found in violations(connection))
    return Table(select(_ROWS), select(_UNITS), broken)


def difference(found: Table, expected: Table, *, replacing: bool = False) -> Difference:
    """How ``found`` differs from ``expected``, the table of an undisturbed run.

    Pairs may be in different units, but the sums over all units must be equal. With ``replacing``, captions that
    a later unit replaced do not count.
    """
    times = Counter(row[0] for row in found.rows)
    wanted = {row[0]: row for row in expected.rows}
    problems = [*found.problems]
    problems += [f"unit {unit[0]} is {unit[1]}" for unit in found.units if unit[1] != "loaded"]
    totals, wanted_totals = _totals(found, replacing), _totals(expected, replacing)
    problems += [
        f"{name} of all units is {total}, expected {wanted_totals[name]}"
        for name, total in totals.items()
        if total != wanted_totals[name]
    ]
    if strange := times.keys() - wanted.keys():
        problems.append(f"{len(strange)} pairs that the undisturbed run does not have")
    return Difference(
        lost=len(wanted.keys() - times.keys()),
        doubled=sum(count - 1 for count in times.values()),
        changed=sum(row != wanted[row[0]] for row in found.rows if row[0] in wanted),
        problems=tuple(problems),
    )


def _totals(table: Table, replacing: bool) -> dict[str, int]:
    names = ("rows_in", "accepted", "rejected", "superseded")
    sums = {name: sum(unit[column] or 0 for unit in table.units) for column, name in enumerate(names, start=2)}
    return {"rows_in less superseded": sums["rows_in"] - sums["superseded"]} if replacing else sums
