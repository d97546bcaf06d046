"""The DAG ``capsfusion``. This file only connects tasks; the tasks call functions of ``capsfusion_tasks.tasks``.

A task imports these functions when it runs, not at the top of the file: Airflow parses the file every 30 seconds, and
the functions need Arrow, DuckDB and database drivers, which take a second to import.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import fusion_metrics
import openlineage_events
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
    EXPORT_PLACES,
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
    params_of,
    planned_fusion,
    planned_units,
    planning,
    set_label,
    told,
    told_params,
    working,
)

from capsfusion_tasks.errors import InputError

SOURCES = "sources"  # XCom key, used if the interval has no shard: number and dates of the shards of each source

# The first Param's description begins with this hint, because Airflow's form has no other place above the Params.
BACKFILL_HINT = (
    "**In a backfill, tick *Override parameters on existing runs* above. Otherwise Airflow ignores all values of this"
    " form**, even for new runs."
)

PARAMS = {
    "day": Param(
        None,
        title="Day",
        type=["null", "string"],
        format="date",
        description_md=f"{BACKFILL_HINT}\n\nIn a single run: the day (UTC) whose shards the run handles. Empty: the"
        " last whole day before the logical date; for example 2026-11-10 if the logical date is 2026-11-11 08:00. Do"
        " not set the logical date to a midnight: such a run fails.",
    ),
    **MODEL_PARAMS,
    **BUDGET_PARAMS,
    "existing": Param(
        "skip",
        title="Pairs that are fused already",
        type="string",
        enum=["skip", "replace"],
        description="What to do with pairs that were fused before with the same model and settings: skip them, or fuse"
        " them again.",
    ),
    "export_to": Param(
        None,
        title="Export to",
        type=["null", "string"],
        pattern=EXPORT_PLACES,
        description="Export the interval's captions to this absolute folder, s3:// or hf:// address. Empty: no export.",
    ),
    "accept_rejections": Param(
        False,
        title="Accept rejections",
        type="boolean",
        description="Load all units, even those with so many rejected captions that the run would first ask a person.",
    ),
    "relist": Param(
        False,
        title="List the sources again",
        type="boolean",
        description="List the sources again, and add shards that are not in the interval's saved list of shards yet.",
    ),
    "replan": Param(
        False,
        title="Plan again",
        type="boolean",
        description="Discard unfinished units that were planned with older settings (for pulling, for pairing, or for"
        " results of img2dataset), and plan their pairs again.",
    ),
}


@dag(
    dag_id="capsfusion",
    description="Fuses the LAION captions that arrived in the data interval.",
    schedule=CronDataIntervalTimetable("@daily", timezone="UTC"),
    start_date=datetime(2026, 11, 1, tzinfo=UTC),
    catchup=False,
    # A rerun uses the version of the DAG that the run began with. With the latest version, Airflow would create only as
    # many mapped tasks as the last try had, even if the new plan has more units.
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
        """Lists the shards (files) that arrived in the interval. Saves the list, so that a rerun uses the same list."""
        from capsfusion_tasks.tasks import interval_tasks

        context = get_current_context()
        with planning(context) as work:
            params = params_of(context)
            shards = interval_tasks.discover(
                work,
                interval_of(context),
                relist=params["relist"],
                replan=params["replan"],
                on_none=lambda dates: context["ti"].xcom_push(SOURCES, dates),
            )
        require_mappable(len(shards), "shards")
        return [shard.model_dump(mode="json") for shard in shards]

    @task(execution_timeout=timedelta(hours=2), map_index_template="{{ label }}")
    def pull(shard: Json) -> Json:
        """Reads a shard once and splits its rows into buckets by URL hash. An unreadable shard fails only its task."""
        from capsfusion_tasks.schemas import Shard
        from capsfusion_tasks.tasks import interval_tasks, metrics

        context = get_current_context()
        set_label(context, Shard(**shard).label)
        with working() as work:
            counts = interval_tasks.pull(work, Shard(**shard))
            openlineage_events.pulled(work, Shard(**shard), counts)
        fusion_metrics.send(metrics.pulled(counts))
        return counts

    # Continue if some pull tasks failed. Skip if all failed, because then there is nothing to pair.
    @task(trigger_rule=TriggerRule.ALL_DONE_MIN_ONE_SUCCESS, execution_timeout=timedelta(minutes=15))
    def share_buckets() -> list[list[int]]:
        """Divides the hash buckets among pair tasks: by default, one task for each 4 GiB of shards pulled so far."""
        from capsfusion_tasks.tasks import interval_tasks

        with working() as work:
            groups = interval_tasks.bucket_groups(work)
        require_mappable(len(groups), "groups of buckets (CAPSFUSION_PAIR_TASKS)")
        return groups

    @task(execution_timeout=timedelta(hours=2), map_index_template="{{ label }}")
    def pair(buckets: list[int]) -> Json:
        """In this task's buckets, joins the interval's rows with all rows that were pulled so far."""
        from capsfusion_tasks.tasks import interval_tasks, metrics

        context = get_current_context()
        set_label(context, f"{len(buckets)} buckets from {buckets[0]}")
        with working() as work:
            counts = interval_tasks.pair(work, interval_of(context), buckets)
        fusion_metrics.send(metrics.paired(counts))
        return counts

    @task(execution_timeout=timedelta(hours=1))
    def plan() -> list[Json]:
        """Skips pairs that are fused already, checks the budget, and cuts the remaining pairs into work units."""
        from capsfusion_tasks.planning.estimate import Budget
        from capsfusion_tasks.tasks import interval_tasks, metrics

        context = get_current_context()
        params = params_of(context)
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
            fusion_metrics.send(metrics.planned(units))
            fusion_metrics.send_queue(work)
        require_mappable(len(units), "units that were planned before")
        return [unit.model_dump(mode="json") for unit in units]

    # Run the export even if loads are skipped, because an earlier run may have loaded captions of this interval.
    @task(trigger_rule=TriggerRule.NONE_FAILED, execution_timeout=timedelta(hours=4))
    def export() -> Json:
        """Writes the interval's captions as Parquet files below export_to. Skipped if export_to is empty."""
        from capsfusion_tasks.tasks import interval_tasks

        context = get_current_context()
        if not (export_to := context["params"]["export_to"]):
            raise AirflowSkipException("export_to is empty")
        with working() as work:
            if (fusion_id := planned_fusion(context)) is None:
                if not interval_tasks.has_shards(work, interval_of(context)):
                    raise AirflowSkipException("the interval has no shard, so there is no caption to export")
                raise InputError("this run has no plan, so the fusion_id to export is unknown: clear the plan task")
            result = interval_tasks.export(work, interval_of(context), fusion_id, export_to)
            openlineage_events.exported(work, result)
        return result

    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(hours=4))
    def check() -> Json:
        """Looks for lost, duplicated, incomplete and stuck work of this interval. Fails if there is any such work."""
        from capsfusion_tasks.tasks import interval_tasks

        context = get_current_context()
        with working() as work:
            result = interval_tasks.check(work, interval_of(context), planned_fusion(context))
        print(result["account"])
        context["ti"].xcom_push(run_note.CHECKED, {"findings": len(result["findings"]), "text": result["text"]})
        if findings := result["findings"]:
            first = "{rule}: {where}: {what}".format(**findings[0])
            raise InputError(f"{len(findings)} findings: this task's log says how to repair them. The first: {first}")
        return result

    # announce is not a part of report: a task with an outlet emits an event whenever it succeeds, and report also
    # succeeds if there are no new captions.
    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(minutes=15), outlets=[CAPTIONS])
    def announce() -> Json:
        """Emits an event of the asset fused_captions with this run's counts. Skipped if no caption was accepted."""
        from capsfusion_tasks.tasks import unit_tasks

        context = get_current_context()
        with working() as work:
            counts = unit_tasks.loaded_counts(work, planned_units(context))
        skip_without_captions(counts)
        interval = interval_of(context)
        about = {"data_interval": [str(interval.start), str(interval.end)], "fusion_id": planned_fusion(context)}
        tell_followers(context, counts, **about)
        return counts

    # The last task decides the run's state, so it fails if any task before it failed.
    @task(trigger_rule=TriggerRule.ALL_DONE, execution_timeout=timedelta(hours=1))
    def report() -> Json:
        """Reports the run's counts of shards, pairs and captions, in this log and in the run's note.

        Fails if any task before it failed.
        """
        from capsfusion_tasks.tasks import interval_tasks

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
            raise InputError(
                f"{len(failures)} shards or units failed, all others are done. The first error: {failures[0]}"
            )
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
    # If a task fails, Airflow marks its successors as upstream_failed at once, even if other tasks still run. So the
    # task check depends directly on all of these tasks, and waits until each of them is done.
    [paired, loaded, held] >> checked


capsfusion()
