"""The DAG ``capsfusion``: wiring only. Each task calls its stage in ``capsfusion_tasks.tasks.interval_tasks``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import run_note
import webhook_alert
from airflow.sdk import (
    CronDataIntervalTimetable,
    Param,
    TriggerRule,
    dag,
    get_current_context,
    task,
)
from airflow.sdk.exceptions import AirflowSkipException
from dag_parts import (
    BUDGET_PARAMS,
    CAPTIONS,
    DEFAULT_ARGS,
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
from run_context import (
    FUSION_KEY,
    interval_of,
    planned_fusion,
    planned_units,
    planning,
    set_label,
    told,
    told_params,
    working,
)

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.planning.estimate import Budget
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.tasks import interval_tasks, unit_tasks

SOURCES = "sources"  # the XCom of discover that says, of a run without shards, what the sources have

# Airflow's form has no other place for a text above the Params.
BACKFILL_HINT = (
    "**In a backfill, tick *Override parameters on existing runs* above. Otherwise Airflow uses no value of this"
    " form**, for new runs neither."
)

PARAMS = {
    "day": Param(
        None,
        title="Day",
        type=["null", "string"],
        format="date",
        description_md=f"{BACKFILL_HINT}\n\nIn a single run: the day (UTC) whose shards it handles. Empty: the last"
        " whole day before the logical date; 2026-11-11 08:00 means 2026-11-10.",
    ),
    **MODEL_PARAMS,
    **BUDGET_PARAMS,
    "existing": Param(
        "skip",
        title="Pairs that are fused already",
        type="string",
        enum=["skip", "replace"],
        description="Pairs that this model has fused already with these settings: skip them, or fuse and replace them.",
    ),
    "export_to": Param(
        None,
        title="Export to",
        type=["null", "string"],
        pattern=r"^(/|\w+://).",
        description="Export the interval's captions as Parquet to this absolute folder, s3://… or hf://…, if given.",
    ),
    "accept_rejections": Param(
        False,
        title="Accept rejections",
        type="boolean",
        description="Load units however many of their captions are rejected.",
    ),
    "relist": Param(
        False,
        title="List the sources again",
        type="boolean",
        description="Add the shards that the sources have now to the interval's frozen list.",
    ),
    "replan": Param(
        False,
        title="Plan anew",
        type="boolean",
        description="Drop the work of units that were begun with other settings, and plan them anew.",
    ),
}


@dag(
    dag_id="capsfusion",
    description="Fuses the LAION captions that arrived in the data interval.",
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    # Otherwise Airflow lays out the mapped tasks of a run that is run again by the number of units of its last try, and
    # what the next plan has beyond that gets no task.
    rerun_with_latest_version=False,
    max_active_runs=8,
    max_active_tasks=MAX_ACTIVE_TASKS,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["capsfusion"],
    doc_md=str(Path(__file__).with_suffix(".md")),
    on_failure_callback=webhook_alert.on_failure(),
    deadline=webhook_alert.deadline(),
)
def capsfusion() -> None:
    @task(execution_timeout=timedelta(minutes=30))
    def discover() -> list[Json]:
        """Lists the shards that arrived in the interval, and freezes the list."""
        context = get_current_context()
        with planning(context) as work:
            params = context["params"]
            shards = interval_tasks.discover(
                work, interval_of(context), relist=params["relist"], replan=params["replan"]
            )
            if not shards:
                context["ti"].xcom_push(SOURCES, interval_tasks.source_dates(work))
        require_mappable(len(shards), "shards")
        return [shard.model_dump(mode="json") for shard in shards]

    @task(execution_timeout=timedelta(hours=2), map_index_template="{{ label }}")
    def pull(shard: Json) -> Json:
        """Reads a shard once and splits it into hash buckets. A shard that cannot be used fails alone."""
        context = get_current_context()
        set_label(context, Shard(**shard).label)
        with working() as work:
            return interval_tasks.pull(work, Shard(**shard))

    # A bad shard does not hold up the good ones; without any good shard there is nothing to pair.
    @task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, execution_timeout=timedelta(minutes=15))
    def share_buckets() -> list[list[int]]:
        """Says how many tasks the join is worth: one per 4 GiB of shards pulled so far."""
        with working() as work:
            groups = interval_tasks.bucket_groups(work)
        require_mappable(len(groups), "groups of buckets (CAPSFUSION_PAIR_TASKS)")
        return groups

    @task(execution_timeout=timedelta(hours=2), map_index_template="{{ label }}")
    def pair(buckets: list[int]) -> Json:
        """Joins the interval's rows with everything that is there, in its share of the buckets."""
        context = get_current_context()
        set_label(context, f"{len(buckets)} buckets from {buckets[0]}")
        with working() as work:
            return interval_tasks.pair(work, interval_of(context), buckets)

    @task(execution_timeout=timedelta(hours=1))
    def plan() -> list[Json]:
        """Drops pairs that are fused already, holds the rest to the budget, and cuts it into work units."""
        context = get_current_context()
        params = context["params"]
        with planning(context) as work:
            context["ti"].xcom_push(FUSION_KEY, work.decoding.fusion_id)
            units = interval_tasks.plan(
                work,
                interval_of(context),
                limit=params["limit"],
                existing=params["existing"],
                dag_run_id=context["run_id"],
                budget=Budget(params["max_gpu_hours"], params["max_cost"]),
                on_estimate=lambda estimate: context["ti"].xcom_push("estimate", estimate.as_dict()),
                replan=params["replan"],
                max_units=max_tasks(),
            )
        require_mappable(len(units), "units that were planned before")
        return [unit.model_dump(mode="json") for unit in units]

    # An interval without anything new may have captions of an earlier run: skipped loads do not skip the export.
    @task(trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=timedelta(hours=4))
    def export() -> Json:
        """Writes the interval's captions as Parquet below the Param export_to; skipped where that is empty."""
        context = get_current_context()
        if not (export_to := context["params"]["export_to"]):
            raise AirflowSkipException("export_to is empty")
        if (fusion_id := planned_fusion(context)) is None:
            raise InputError(
                "there is no plan of this run, so nothing says which fusion to export: clear its task plan"
            )
        with working() as work:
            return interval_tasks.export(work, interval_of(context), fusion_id, export_to)

    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=30))
    def check() -> Json:
        """Looks for what is lost, doubled, half-written or stuck of this interval. Fails where it finds anything."""
        context = get_current_context()
        with working() as work:
            result = interval_tasks.check(work, interval_of(context), planned_fusion(context))
        print(result["account"])
        context["ti"].xcom_push(run_note.CHECKED, {"findings": len(result["findings"]), "text": result["text"]})
        if findings := result["findings"]:
            first = findings[0]
            raise InputError(f"{len(findings)} findings; the first: {first['rule']}: {first['where']}: {first['what']}")
        return result

    # Not the report: a task with an outlet emits an event whenever it succeeds.
    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=15), outlets=[CAPTIONS])
    def announce() -> Json:
        """Emits an event of the asset fused_captions with what this run brought; skipped where it brought nothing."""
        context = get_current_context()
        with working() as work:
            counts = unit_tasks.loaded_counts(work, planned_units(context))
        skip_without_captions(counts)
        interval = interval_of(context)
        about = {"data_interval": [str(interval.start), str(interval.end)], "fusion_id": planned_fusion(context)}
        tell_followers(context, counts, **about)
        return counts

    # The last task decides the run's state, so it fails where anything before it did.
    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=15))
    def report() -> Json:
        """Says what came in and what came out, here and in the run's note.

        Fails where anything before it failed.
        """
        context = get_current_context()
        with working() as work:
            units = planned_units(context)
            result = interval_tasks.report(work, interval_of(context), planned_fusion(context), units)
        checked = context["ti"].xcom_pull(task_ids="check", key=run_note.CHECKED) or run_note.UNCHECKED
        sources: list[str] = context["ti"].xcom_pull(task_ids="discover", key=SOURCES) or []
        about = [told(interval_of(context)), *sources, told_params(context)]
        print("\n".join([*about, str(result["text"]), str(checked["text"])]))
        context["ti"].xcom_push(run_note.KEY, run_note.compose(result, checked, about))
        if failures := result["failures"]:
            raise InputError(f"{len(failures)} shards or units failed, all others are done; the first: {failures[0]}")
        require_all_done(context, result)
        return result

    buckets = share_buckets()
    units = plan()
    pull.expand(shard=discover()) >> buckets
    paired, loaded = pair.expand(buckets=buckets), each_unit.expand(unit=units)
    held = asked(loaded)
    checked = check()
    paired >> units
    [loaded, held] >> export() >> checked >> announce() >> report()
    # One that fails gives up what needs all of them, at once: the check and the report wait until the others are done.
    [paired, loaded, held] >> checked


capsfusion()
