"""Links to a run's pages in Airflow's UI, including the path of ``[api] base_url``."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

RUN_TAB = "captions-of-run"  # path of the tab with the captions view


def base_path() -> str:
    """The path of Airflow's pages. It ends with a slash."""
    return urlsplit(_base_url()).path.rstrip("/") + "/"


def captions_of_run(dag_id: str, run_id: str) -> str:
    """The address of the run's tab with its captions and figures."""
    return f"{base_path()}{run_page(dag_id, run_id)}/plugin/{RUN_TAB}"


def run_page(dag_id: str, run_id: str) -> str:
    """The address of the run's page, relative to ``base_path``."""
    return f"dags/{dag_id}/runs/{quote(run_id, safe='')}"


def absolute(page: str) -> str:
    """The full URL of ``page``, a path relative to ``base_path``. For messages outside the UI."""
    return f"{_base_url().rstrip('/')}/{page}"


def _base_url() -> str:
    # Imported here, because all tasks load plugins, but few of them need this module.
    from airflow.configuration import conf

    return str(conf.get("api", "base_url", fallback="/"))
