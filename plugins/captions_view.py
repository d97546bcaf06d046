"""The captions view in Airflow's UI: an entry in the navigation and a tab on the page of a run."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin
from run_pages import RUN_TAB

DAG = "capsfusion"
PREFIX = "/capsfusion"
PAGE = f"{PREFIX.removeprefix('/')}/"  # a relative address, so that it works below any path of [api] base_url


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

    # A property, because every task loads this file, but only the API server needs the web framework.
    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]
        from airflow.api_fastapi.core_api.security import get_user, requires_access_dag
        from fastapi import Depends

        from capsfusion_tasks.explorer.app import create_app

        may_edit = Depends(requires_access_dag("PUT", param_dag_id=DAG))

        def judge(user: Any = Depends(get_user), _: None = may_edit) -> str:  # noqa: B008
            return str(user.get_name())

        # Airflow does not guard a plugin's routes. This guard answers 401 without a login and 403 without the right to
        # read the DAG. Users who may edit the DAG may judge captions.
        app = create_app(guard=requires_access_dag("GET", param_dag_id=DAG), judge=judge)
        return [{"name": "CapsFusion captions", "url_prefix": PREFIX, "app": app}]
