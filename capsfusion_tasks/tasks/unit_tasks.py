"""One function for each task of a unit: fuse, validate, load. ``capsfusion run`` and the DAGs call these functions.

A unit has the pairs that are fused, validated and loaded together. The ledger has the decoding settings of each
fusion_id, so these functions need no model settings. As in ``interval_tasks``, arguments and results are small, rows
are passed on in files, and an ``InputError`` means that a retry will not help.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import pyarrow as pa
from sqlalchemy import Connection

from capsfusion_tasks.context import Context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.torchrun_command import require_gpu_for, torchrun_argv
from capsfusion_tasks.planning import unit_files
from capsfusion_tasks.pull_rules import UnitRules
from capsfusion_tasks.schemas import Existing, Unit, fused_schema, has_beams, validated_schema, with_columns_of
from capsfusion_tasks.staging import layout
from capsfusion_tasks.validation import gate
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.units import different_rules, validate_unit
from capsfusion_tasks.warehouse import fusions, gate_holds, ledger, ownership, queries
from capsfusion_tasks.warehouse.captions import raws_by_caption
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.queries import Scope

log = logging.getLogger(__name__)


def fuse_argv(context: Context, unit: Unit) -> list[str]:
    """The torchrun command that fuses the unit on this node.

    Raises InputError if this node does not have the model, or has no GPU although the unit's dtype needs one.
    """
    decoding = context.decoding_of(unit.fusion_id)
    require_gpu_for(decoding.dtype)
    job = FuseJob.of(
        context.settings,
        decoding,
        staging=context.settings.staging_uri,
        pairs=layout.unit_pairs(unit.unit_id),
        chunks=layout.chunks_folder(unit.unit_id),
    )
    return torchrun_argv(job, context.settings.nproc_per_node)


@contextmanager
def at_work(context: Context, unit: Unit) -> Iterator[None]:
    """Hold the unit's lock in the warehouse during the block. The lock shows that a task is fusing the unit."""
    with ownership.at_work(context.warehouse.engine, unit.unit_id):
        yield


def fused_and_loaded(context: Context, unit: Unit) -> dict[str, Any] | None:
    """Figures about the fusing of a loaded unit, such as rows and tokens. None if the unit is not loaded.

    Reads the ledger, because the files of a loaded unit may be gone.
    """
    loaded = _loaded(context, unit)
    return None if loaded is None else asdict(loaded.fused)


def _loaded(context: Context, unit: Unit) -> ledger.LoadedUnit | None:
    with context.warehouse.engine.connect() as connection:
        return ledger.loaded_unit(connection, unit.unit_id)


def fuse_started(context: Context, unit: Unit) -> None:
    _require_pull_rules(context, unit)
    with context.warehouse.engine.begin() as connection:
        ledger.unit_started(connection, unit.unit_id)


def _require_pull_rules(context: Context, unit: Unit) -> None:
    """Raise InputError if the settings for pulling, pairing or image results differ from those of the unit's plan.

    Planning checks this too, but a task can run without planning.
    """
    made_with, rules = unit_files.rules_of(context.storage, unit.unit_id), UnitRules.of(context.settings)
    if made_with is not None and made_with != rules:
        raise InputError(
            f"unit {unit.unit_id} was planned with {made_with.against(rules)}. To finish it, use"
            f" {made_with.variables(rules) or 'the version of this project that planned it'}. To plan it again, run its"
            " interval with --replan"
        )


def is_fused(context: Context, unit: Unit) -> bool:
    """Whether the unit's chunks (files of fused rows) have all rows of the unit, so that torchrun need not run."""
    return chunk_files.what_is_missing(_fused(context, unit, ["row"]), unit.rows) is None


def fuse_finished(context: Context, unit: Unit) -> dict[str, Any]:
    """Sum up the figures in the unit's chunks (files of fused rows), such as the numbers of tokens.

    Raises NotReadyError if a row is in no chunk; a retry fuses this row.
    """
    folder = layout.chunks_folder(unit.unit_id)
    fused, total = chunk_files.figures(context.storage, folder, unit.fusion_id, unit.rows)
    if problem := chunk_files.what_is_missing(fused, unit.rows):
        raise NotReadyError(f"unit {unit.unit_id}: {problem}. Chunks are missing; the next try fuses the missing rows")
    figures = total.as_dict()
    with context.warehouse.engine.begin() as connection:
        ledger.unit_fused(connection, unit.unit_id, figures)
    return figures


def fuse_failed(context: Context, unit: Unit, error: str) -> None:
    with context.warehouse.engine.begin() as connection:
        ledger.unit_failed(connection, unit.unit_id, error)


@contextmanager
def _recorded(context: Context, unit: Unit) -> Iterator[None]:
    """Record an InputError of the block in the ledger, because no retry will help. Airflow retries other errors."""
    try:
        yield
    except InputError as error:
        fuse_failed(context, unit, str(error))
        raise


def validate(
    context: Context,
    unit: Unit,
    *,
    accept_rejections: bool = False,
    hold: bool = False,
    dag_run_id: str | None = None,
) -> dict[str, Any]:
    """Validate the unit's captions. For a loaded unit, only return its counts.

    If the rows have captions of several beams, a rejected best caption is replaced by the best other caption that
    passes. The row then counts as accepted and ``rescued``.

    Raises InputError if a row is not fused, and records the error in the ledger. If the unit has too many rejections,
    the gate closes, so that the unit is not loaded, and the ledger records the error. Then, if ``hold`` is set, the
    unit is held until somebody decides whether to load it. Without ``hold``, this raises InputError with the table of
    reasons. The gate stays open if ``accept_rejections`` is set, or if somebody has already accepted the unit with the
    same counts. The verdicts are published even if the gate closes.
    """
    if loaded := _loaded(context, unit):
        return _verdicts(loaded.accepted, loaded.rejected, already_loaded=True)
    engine = context.warehouse.engine

    def loaded_before(captions: Set[str]) -> dict[str, set[str]]:
        with engine.begin() as connection:  # not one transaction for the whole validation, which takes minutes
            return raws_by_caption(connection, captions)

    with _recorded(context, unit):
        fused = _fused(context, unit)
        if missing := chunk_files.what_is_missing(fused, unit.rows):
            raise InputError(f"unit {unit.unit_id}: {missing}. Run its fuse task again: it fuses only missing rows")
        validated = validate_unit(context.storage, unit, fused, context.settings.rules, loaded=loaded_before)
    with engine.connect() as connection:
        recent = [gate.Verdicts(*row) for row in ledger.recent_verdicts(connection, unit.fusion_id)]
    tally = Tally().add(validated)
    problem = gate.why_closed(tally, recent, context.settings.gate)
    with engine.begin() as connection:
        error = _pass_gate(context, connection, unit, tally, problem, accept_rejections, dag_run_id)
    if error and not hold:
        raise InputError(error)
    if error:
        log.warning("the unit waits until somebody decides whether to load it: %s", error)
    counts = _verdicts(tally.accepted, tally.rejected, already_loaded=False)
    return counts | {
        "held": error is not None,
        "problem": problem if error else None,
        "rescued": tally.rescued,
        "reasons": dict(tally.reasons.most_common()),
        "flags": dict(tally.flags.most_common()),
    }


def _pass_gate(
    context: Context,
    connection: Connection,
    unit: Unit,
    tally: Tally,
    problem: str | None,
    accept_rejections: bool,
    dag_run_id: str | None,
) -> str | None:
    """Record in the ledger whether the unit may be loaded. Return None if it may be loaded, or else the error."""
    before = gate_holds.newest(connection, unit.unit_id)
    counts = (tally.rows, tally.rejected)
    if problem is None:
        if before and before.is_held:
            why = "the gate is open now"
            gate_holds.enter(connection, unit.unit_id, dag_run_id, counts, why, let_in_by="validation")
        return None
    told = f"{tally.rejected} of {tally.rows} captions are rejected, and {problem}"
    same = before if before and (before.rows, before.rejected) == counts else None
    if same and not same.is_held:
        log.warning("%s; but the unit may be loaded: %s accepted it at %s", told, same.answered_by, same.answered_at)
        return None
    if accept_rejections:
        log.warning("%s; but the unit may be loaded: accept_rejections is set", told)
        gate_holds.enter(connection, unit.unit_id, dag_run_id, counts, problem, let_in_by="accept_rejections")
        return None
    error = _gate_error(context, unit, tally, problem)
    if same and same.answer is None:  # keep a hold without an answer: another run may wait for the answer
        if dag_run_id:
            gate_holds.held_again(connection, same.hold_id, dag_run_id)
    else:
        gate_holds.enter(connection, unit.unit_id, dag_run_id, counts, problem, details="\n".join(tally.lines()))
    ledger.unit_failed(connection, unit.unit_id, error)
    return error


def _verdicts(accepted: int, rejected: int, *, already_loaded: bool) -> dict[str, Any]:
    return {
        "rows": accepted + rejected,
        "accepted": accepted,
        "rejected": rejected,
        "rescued": 0,
        "reasons": {},
        "flags": {},
        "already_loaded": already_loaded,
        "held": False,
        "problem": None,
    }


def _gate_error(context: Context, unit: Unit, tally: Tally, problem: str) -> str:
    summary = (
        f"{tally.rejected} of {tally.rows} captions of unit {unit.unit_id} are rejected ({tally.share:.1%}), and"
        f" {problem}. No caption of the unit is loaded. If the rejections are right, start the run again with"
        " accept_rejections (for a backfill in Airflow's UI, also tick Override parameters on existing runs)."
        f" All verdicts: {context.settings.staging_uri.rstrip('/')}/{layout.unit_validated(unit.unit_id)}"
    )
    return "\n".join([summary, *tally.lines()])


def held_by_gate(context: Context, unit: Unit) -> bool:
    """Whether the gate holds the unit and nobody has accepted the unit. False for a loaded unit."""
    with context.warehouse.engine.connect() as connection:
        found = gate_holds.newest(connection, unit.unit_id)
        return found is not None and found.is_held and ledger.loaded_unit(connection, unit.unit_id) is None


def load(context: Context, unit: Unit, *, existing: Existing = "skip", dag_run_id: str | None = None) -> dict[str, Any]:
    """Load the unit's rows and mark the unit as loaded, in one transaction. Does nothing if the unit is loaded already.

    If ``existing`` is replace, here or in the unit's plan, the unit's rows replace loaded captions of the same pairs.
    If ``existing`` is skip in both places, raises InputError if captions of the same pairs are loaded. Also raises
    InputError if the gate holds the unit, or if the unit was planned or validated with other settings. The ledger
    records these errors, except the gate's error, which ``validate`` has already recorded with the reasons.
    """
    if loaded := _loaded(context, unit):  # check this first: the files of a loaded unit may be gone
        return {"accepted": loaded.accepted, "rejected": loaded.rejected, "already_loaded": True}
    if held_by_gate(context, unit):
        raise InputError(
            f"the gate holds unit {unit.unit_id}, because too many of its captions were rejected: accept the unit with"
            " --accept-rejections (in Airflow: Param accept_rejections), or answer the question of Airflow's task `ask`"
        )
    with _recorded(context, unit):
        _require_pull_rules(context, unit)
        rows = _validated(context, unit)
        result = load_unit(context.warehouse, unit.unit_id, rows, dag_run_id, replace=existing == "replace")
    return {"accepted": result.accepted, "rejected": result.rejected, "already_loaded": result.already_loaded}


def loaded_counts(context: Context, unit_ids: Sequence[str]) -> dict[str, int]:
    """Sums of ``rows_in``, ``accepted`` and ``rejected`` over the units that are loaded."""
    scope = Scope(unit_ids=unit_ids)
    with context.warehouse.engine.connect() as connection:
        loaded = queries.run_summary(connection, scope)
    return {"rows_in": loaded.rows_in - loaded.waiting, "accepted": loaded.accepted, "rejected": loaded.rejected}


def _validated(context: Context, unit: Unit) -> pa.Table:
    rows = context.storage.read_table(layout.unit_validated(unit.unit_id))
    if differing := different_rules(rows, context.settings.rules):
        raise InputError(f"unit {unit.unit_id} was validated with {differing}: run its validate task again")
    schema = validated_schema(with_beams=has_beams(rows))
    return with_columns_of(schema, rows).select(schema.names).cast(schema)


def _fused(context: Context, unit: Unit, columns: list[str] | None = None) -> pa.Table:
    """The rows of the unit that are fused, from its chunk files. ``columns``: the columns to read; None for all."""
    folder = layout.chunks_folder(unit.unit_id)
    if columns is None:
        with context.warehouse.engine.connect() as connection:
            columns = fused_schema(with_beams=fusions.keeps_beams(connection, unit.fusion_id)).names
    return chunk_files.collect(context.storage, folder, unit.fusion_id, unit.rows, columns)
