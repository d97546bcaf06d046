"""The DAG ``capsfusion_export`` exports accepted captions that match a filter.

The button *Export these* in the captions view starts this DAG.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import webhook_alert
from airflow.sdk import Param, dag, get_current_context, task
from dag_parts import DEFAULT_ARGS, EXPORT_PLACES, FILTER_PARAM, Json, limit_param
from run_context import params_of, working

from capsfusion_tasks.caption_filter import CaptionFilter

PARAMS = {
    "export_to": Param(
        title="Export to",
        type="string",
        pattern=EXPORT_PLACES,
        description="A new folder for this export: s3://…, hf://…, or an absolute path that every worker reaches.",
    ),
    **FILTER_PARAM,
    "columns": Param(
        None,
        title="More columns",
        type=["null", "string"],
        description="Columns to export in addition to image_url, laion_2b, laion_coco and capsfusion: names separated"
        " by commas, or the word all.",
    ),
    "limit": limit_param("Export a random sample of at most this many captions. Empty: all captions."),
}


@dag(
    dag_id="capsfusion_export",
    description="Exports accepted captions that match a filter as Parquet files.",
    schedule=None,
    catchup=False,
    default_args=DEFAULT_ARGS,
    params=PARAMS,
    tags=["capsfusion"],
    doc_md=str(Path(__file__).with_suffix(".md")),
    on_failure_callback=webhook_alert.on_failure(),
)
def capsfusion_export() -> None:
    @task(execution_timeout=timedelta(hours=4))
    def export() -> Json:
        """Writes the captions and a manifest. A cleared task continues after the last finished file of the export."""
        from capsfusion_tasks.tasks.export import export_filtered

        params = params_of(get_current_context())
        with working() as work:
            wanted = CaptionFilter.of_param(params["filter"]) or CaptionFilter()
            done = export_filtered(
                work.warehouse,
                wanted,
                params["export_to"],
                work.settings.scratch_folder,
                columns=params["columns"],
                limit=params["limit"],
            )
        print(f"{done['rows']} captions in {done['files']} files in {done['target']}")
        return done

    export()


capsfusion_export()
