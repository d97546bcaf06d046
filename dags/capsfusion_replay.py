"""The DAG ``capsfusion_replay``. This file only connects tasks; the tasks call functions of ``capsfusion_tasks.tasks``.

A replay takes rejected captions, and fuses their pairs again or validates the captions again.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import fusion_metrics
import run_note
import webhook_alert
from airflow.sdk import Param, TriggerRule, dag, get_current_context, task
from dag_parts import (
    BUDGET_PARAMS,
    CAPTIONS,
    DEFAULT_ARGS,
    FILTER_PARAM,
    MAX_ACTIVE_TASKS,
    MODEL_PARAMS,
    Json,
    asked,
    each_unit,
    require_all_done,
    skip_without_captions,
    tell_followers,
)
from map_length import max_tasks, require_mappable
from run_context import FUSION_KEY, params_of, planned_fusion, planned_units, planning, replay_of, working

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.validation.rules import REASONS

# Key of an XCom of the plan task: the ``Replay``, which says which rejected captions to replay.
SELECTION_KEY = "selection"

PARAMS = {
    "reason": Param(
        None,
        title="Reasons",
        type=["null", "array"],  # the form sends null after a user removed all reasons
        items={"type": "string", "enum": list(REASONS)},
        examples=list(REASONS),
        description="Replay captions that were rejected for one of these reasons. Empty: for any reason.",
    ),
    "fusion_id": Param(
        None,
        title="Fusion",
        type=["null", "string"],
        minLength=1,
        description="Replay captions of this fusion_id (model and settings). Empty: the daily runs' fusion_id.",
    ),
    "start": Param(
        None,
        title="Loaded from",
        type=["null", "string"],
        format="date-time",
        description="Replay captions that were loaded at or after this time. Empty: no limit.",
    ),
    "end": Param(
        None,
        title="Loaded before",
        type=["null", "string"],
        format="date-time",
        description="Replay captions that were loaded before this time. Empty: up to now.",
    ),
    **FILTER_PARAM,
    **MODEL_PARAMS,
    "max_new_tokens": Param(
        None,
        title="Longest caption",
        type=["null", "integer"],
        minimum=1,
        maximum=1024,
        description="Maximum length of a caption, in tokens. Empty: the setting CAPSFUSION_MAX_NEW_TOKENS.",
    ),
    "dtype": Param(
        None,
        title="Number format",
        type=["null", "string"],
        enum=[None, "auto", "float32", "bfloat16", "float8"],
        values_display={"null": "as CAPSFUSION_DTYPE says"},
        description="Number format of the model's weights and activations. Empty: the setting CAPSFUSION_DTYPE.",
    ),
    **BUDGET_PARAMS,
    "existing": Param(
        "skip",
        title="Pairs that are fused already",
        type="string",
        enum=["skip", "replace"],
        description="What to do with pairs that were fused before with the same model and settings: skip them, or fuse"
        " them again.",
    ),
    "accept_rejections": Param(
        True,
        title="Accept rejections",
        type="boolean",
        description="Load all units, even if most of their captions are rejected again.",
    ),
}


@dag(
    dag_id="capsfusion_replay",
    description="Fuses the pairs of rejected captions again, and accepts the new captions that pass.",
    schedule=None,
    catchup=False,
    rerun_with_latest_version=False,  # with True, a rerun would lack tasks for new units: see dags/capsfusion.py
    max_active_runs=4,
    max_active_tasks=MAX_ACTIVE_TASKS,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["capsfusion"],
    doc_md=str(Path(__file__).with_suffix(".md")),
    on_failure_callback=webhook_alert.on_failure(),
)
def capsfusion_replay() -> None:
    # In the daily DAG, five tasks precede `fuse`, and each adds 1 to the priority of `fuse`. The weight 5 gives the
    # `fuse` tasks of replays the same priority, so that replays and daily runs share the GPUs.
    @task(execution_timeout=timedelta(hours=1), priority_weight=5)
    def plan() -> list[Json]:
        """Selects the rejected captions, checks the budget, and cuts their pairs into work units."""
        from capsfusion_tasks.planning.estimate import Budget
        from capsfusion_tasks.tasks import metrics, replay

        context = get_current_context()
        params = params_of(context)
        with working() as work:  # with the settings of the daily runs, not with this run's Params
            selection = replay_of(context, params["fusion_id"] or work.decoding.fusion_id)
        with planning(context) as work:
            context["ti"].xcom_push(FUSION_KEY, work.decoding.fusion_id)
            context["ti"].xcom_push(SELECTION_KEY, selection.model_dump(mode="json"))
            units = replay.plan(
                work,
                selection,
                existing=params["existing"],
                dag_run_id=context["run_id"],
                budget=Budget(params["max_gpu_hours"], params["max_cost"]),
                on_estimate=lambda estimate: context["ti"].xcom_push("estimate", estimate.as_dict()),
                max_units=max_tasks(),
            )
            fusion_metrics.send(metrics.planned(units))
            fusion_metrics.send_queue(work)
        require_mappable(len(units), "units that were planned before")
        return [unit.model_dump(mode="json") for unit in units]

    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=15), outlets=[CAPTIONS])
    def announce() -> Json:
        """Emits an event of the asset fused_captions with this replay's counts. Skipped if no caption was accepted."""
        from capsfusion_tasks.tasks import replay, unit_tasks

        context = get_current_context()
        with working() as work:
            counts = unit_tasks.loaded_counts(work, planned_units(context))
            moved = replay.moved(work, context["run_id"], planned_fusion(context), planned_units(context))
        skip_without_captions(counts)
        selection = context["ti"].xcom_pull(task_ids="plan", key=SELECTION_KEY) or {}
        about = {"replay_of": selection.get("fusion_id"), "fusion_id": planned_fusion(context)}
        tell_followers(context, counts, **about, moved=moved)
        return counts

    # The last task decides the run's state. It fails if a task failed, but not if captions are rejected again.
    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=15))
    def report() -> Json:
        """Reports how many captions were selected, moved and rejected again, in this log and in the run's note."""
        from capsfusion_tasks.schemas import Replay
        from capsfusion_tasks.tasks import replay

        context = get_current_context()
        selection, fusion_id = context["ti"].xcom_pull(task_ids="plan", key=SELECTION_KEY), planned_fusion(context)
        if selection is None or fusion_id is None:
            raise InputError("nothing was planned: see the log of the plan task, then clear the plan task")
        with working() as work:
            result = replay.report(work, Replay(**selection), fusion_id, planned_units(context))
        print(result["text"])
        context["ti"].xcom_push(run_note.KEY, run_note.compose(result))
        if failures := result["failures"]:
            raise InputError(f"{len(failures)} units failed, all others are done. The first error: {failures[0]}")
        require_all_done(context, result)
        return result

    loaded = each_unit.expand(unit=plan())
    [loaded, asked(loaded)] >> announce() >> report()


capsfusion_replay()
