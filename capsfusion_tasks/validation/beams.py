"""Replaces a rejected caption with another caption from the same beam search, if the rules accept one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.schemas import OTHER_BEAMS, VALIDATED_WITH_BEAMS
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import DEFAULTS
from capsfusion_tasks.validation.validate import RawsByCaption, validate_table


def best_that_pass(table: pa.Table, settings: RuleSettings = DEFAULTS, loaded: RawsByCaption | None = None) -> pa.Table:
    """Validate the captions of a table, and replace rejected captions with alternatives from ``other_beams``.

    ``other_beams`` has the other captions of each row's beam search, from best to worst. A rejected caption is replaced
    by the first of these that the rules accept. If they accept none, the row keeps its caption and the reasons. Also
    adds the columns ``beam`` and ``rescued_from`` (``schemas.VALIDATED_WITH_BEAMS``).
    """
    judged = validate_table(table, settings=settings, loaded=loaded)
    rows, beams, others = _others_of_rejected(judged)
    others = validate_table(others, settings=settings, loaded=_with_captions_of(judged, loaded)).select(
        judged.column_names
    )

    passing = np.flatnonzero(pc.equal(pc.list_value_length(others["reasons"]), 0).to_numpy())
    # ``other_beams`` is sorted from best to worst, so the first accepted caption of a row is the best one.
    rescued, first = np.unique(rows[passing], return_index=True)
    taken = passing[first]
    source, beam = np.arange(judged.num_rows), np.ones(judged.num_rows, np.int32)
    source[rescued], beam[rescued] = judged.num_rows + taken, beams[taken]
    rescued_from: list[list[str] | None] = [None] * judged.num_rows
    for row, reasons in zip(rescued.tolist(), judged["reasons"].take(rescued).to_pylist(), strict=True):
        rescued_from[row] = reasons
    best = pa.concat_tables([judged, others.cast(judged.schema)]).take(source)
    for name, values in (("beam", beam), ("rescued_from", rescued_from)):
        field = VALIDATED_WITH_BEAMS.field(name)
        best = best.append_column(field, pa.array(values, field.type))
    return best


def _others_of_rejected(judged: pa.Table) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    """The other captions of all rejected rows, as (row numbers in ``judged``, beam numbers, table).

    Beam numbers start at 2, because the rejected caption itself is beam 1.
    """
    rejected = np.flatnonzero(pc.greater(pc.list_value_length(judged["reasons"]), 0).to_numpy())
    lists = judged[OTHER_BEAMS.name].take(rejected).combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy()
    rows, beams = rejected[parents], np.arange(len(parents)) - np.searchsorted(parents, parents) + 2
    others, captions = judged.take(rows), pc.list_flatten(lists)
    for name in OTHER_BEAMS.type.value_type.names:
        place = others.schema.get_field_index(name)
        others = others.set_column(place, others.schema.field(place), captions.field(name))
    return rows, beams, others


def _with_captions_of(judged: pa.Table, loaded: RawsByCaption | None) -> RawsByCaption:
    """A function that adds the rows of ``judged`` to the results of ``loaded`` (fused caption → its raw captions)."""
    raws: defaultdict[str, set[str]] = defaultdict(set)
    for caption, raw in zip(judged["capsfusion"].to_pylist(), judged["laion_2b"].to_pylist(), strict=True):
        raws[caption or ""].add(raw or "")

    def known(captions: Set[str]) -> Mapping[str, Set[str]]:
        before = {} if loaded is None else loaded(captions)
        return {caption: raws.get(caption, set()) | before.get(caption, set()) for caption in captions}

    return known
