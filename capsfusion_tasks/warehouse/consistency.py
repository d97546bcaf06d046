"""Finds rows that break a rule of the tables: for example a pair that is both accepted and rejected."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import CompoundSelect, Connection, Executable, Table, and_, case, func, select, union, union_all

from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions, replayed_captions
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.queries import EVERYTHING, Scope, of_units


@dataclass(frozen=True)
class Violation:
    """A row that breaks a rule of the tables."""

    rule: str
    unit_id: str
    what: str  # for example "rows_in 5, accepted 3, rejected 1"


def violations(connection: Connection, scope: Scope = EVERYTHING, *, pairs: bool = True) -> list[Violation]:
    """Rows of the units in ``scope`` that break a rule of the tables.

    Without ``pairs``, checks only the rules that compare numbers of rows, because the rules about pairs take longer.
    """
    tables = (fused_captions, rejected_captions, replayed_captions)
    stored = union_all(*(select(table.c.unit_id).where(of_units(table, scope)) for table in tables)).subquery()
    per_unit = select(stored.c.unit_id, func.count().label("stored")).group_by(stored.c.unit_id).subquery()
    units = work_units.c
    count = func.coalesce(per_unit.c.stored, 0)
    rules: dict[str, Executable] = {
        "each row of a loaded unit is accepted or rejected": select(
            units.unit_id, units.rows_in, units.accepted, units.rejected
        ).where(
            scope.clause(),
            units.state == "loaded",
            func.coalesce(units.rows_in != units.accepted + units.rejected, True),
        ),
        "each row of a unit is stored, replayed or superseded": select(
            units.unit_id, units.state, units.rows_in, units.superseded, count.label("stored")
        )
        .select_from(work_units.outerjoin(per_unit, per_unit.c.unit_id == units.unit_id))
        .where(scope.clause(), count + units.superseded != case((units.state == "loaded", units.rows_in), else_=0)),
    }
    if pairs:
        rules |= {
            "a pair is accepted or rejected, not both": _in_both(rejected_captions, fused_captions, "fusion_id", scope),
            "a caption is rejected or replayed, not both": _in_both(
                rejected_captions, replayed_captions, "unit_id", scope
            ),
        }
    return [
        Violation(rule, row["unit_id"], ", ".join(f"{name} {row[name]}" for name in row if name != "unit_id"))
        for rule, query in rules.items()
        for row in connection.execute(query).mappings()
    ]


def _in_both(one: Table, other: Table, under: str, scope: Scope) -> CompoundSelect[Any]:
    """Pairs that are in both tables with the same value in the column ``under``."""
    same = and_(one.c.pair_id == other.c.pair_id, one.c[under] == other.c[under])
    both = select(other.c.pair_id, other.c.fusion_id, other.c.unit_id).join(one, same)
    # Two queries, because one with "or" would scan both tables.
    return union(*(both.where(of_units(table, scope)) for table in (one, other)))
