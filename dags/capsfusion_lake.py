"""The DAG ``capsfusion_lake``: writes accepted captions to an Iceberg table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import webhook_alert
from airflow.sdk import Param, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowSkipException
from dag_parts import CAPTIONS, DEFAULT_ARGS, Json
from run_context import params_of, working

PARAMS = {
    "keep_days": Param(
        None,
        title="Keep snapshots (days)",
        type=["null", "number"],
        minimum=0,
        maximum=36500,
        description="Remove snapshots of the Iceberg table that are older than this many days. Queries that read a"
        " removed snapshot fail. Empty: the setting CAPSFUSION_LAKE_KEEP_DAYS.",
    )
}


@dag(
    schedule=[CAPTIONS],  # runs after each run of capsfusion or capsfusion_replay that loaded captions
    max_active_runs=1,
    # By default, Airflow pauses a new DAG, and a paused DAG loses the asset's events. The Iceberg table would stay
    # empty, although no task fails.
    is_paused_upon_creation=False,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    doc_md=Path(__file__).with_suffix(".md").read_text(),
    tags=["capsfusion"],
    on_failure_callback=webhook_alert.on_failure(),
)
def capsfusion_lake() -> None:
    @task(execution_timeout=timedelta(hours=4))
    def sync() -> Json:
        """Writes accepted captions of loaded units to the Iceberg table. Skipped without CAPSFUSION_LAKE_TABLE."""
        from capsfusion_tasks.tasks import lake_tasks

        params_of(get_current_context())  # refuse unknown Params now, not in maintain, after hours of work
        with working() as work:
            if work.settings.lake_table is None:
                raise AirflowSkipException("CAPSFUSION_LAKE_TABLE is not set")
            done = lake_tasks.sync_lake(work)
        return {"units": done.units, "captions": done.rows, "found": done.found}

    @task(execution_timeout=timedelta(hours=4))
    def maintain() -> Json:
        """Merges small files of the Iceberg table, and removes its old snapshots (see the Param keep_days)."""
        from capsfusion_tasks.tasks import lake_tasks

        chosen = params_of(get_current_context())["keep_days"]
        with working() as work:
            days = work.settings.lake_keep_days if chosen is None else chosen
            before = datetime.now(UTC) - timedelta(days=days)
            done = lake_tasks.maintain_lake(work, before=before)
        return {"partitions": done.partitions, "snapshots": done.snapshots, "files": done.files}

    sync() >> maintain()


capsfusion_lake()
