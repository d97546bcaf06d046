"""The captions view in Airflow's UI: an entry in the navigation, and a tab on the page of a DAG run."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin

DAG = "capsfusion"
PREFIX = "/capsfusion"
RUN_TAB = "captions-of-run"
PAGE = f"{PREFIX.removeprefix('/')}/"  # relative to Airflow's own pages, wherever [api] base_url puts them


class CaptionsViewPlugin(AirflowPlugin):
    name = "capsfusion_captions_view"
    external_views = [  # noqa: RUF012
        {"name": "Captions", "destination": "nav", "url_route": "captions", "href": PAGE},
        {
            "name": "Captions",
            "destination": "dag_run",
            "url_route": RUN_TAB,
            "href": f"{PAGE}?view=runs&dag={{DAG_ID}}&dag_run_id={{RUN_ID}}",
        },
    ]

    # Asked for by the API server only. Every task loads this file, too, and must not pay for a web server's modules.
    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        from airflow.api_fastapi.core_api.security import requires_access_dag

        from capsfusion_tasks.explorer.app import create_app

        # Airflow guards no route of a plugin: who is not logged in (401) or may not read the DAG (403) stops here.
        app = create_app(guard=requires_access_dag("GET", param_dag_id=DAG))
        return [{"name": "CapsFusion captions", "url_prefix": PREFIX, "app": app}]
