"""Creates the pool ``gpu``, because tasks whose pool is missing wait forever and the UI does not say why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

DAGS = ("capsfusion", "capsfusion_replay")
POOL = "gpu"
SLOTS = 1  # a fuse task takes all GPUs of its node, so the pool should have as many slots as there are GPU nodes


class GpuPool:
    """Creates the pool when a run of one of the DAGs starts. Does not change an existing pool."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun) -> None:
        if dag_run.dag_id not in DAGS:
            return
        # Imported here, because tasks also load this plugin, but have no access to Airflow's database.
        from airflow.models.pool import Pool
        from airflow.utils.session import create_session

        # A separate session, because the scheduler's session is in a transaction that must not be committed here.
        with create_session(scoped=False) as session:
            if Pool.get_pool(POOL, session=session) is None:
                description = "Fuse tasks: a slot per GPU node."
                Pool.create_or_update_pool(POOL, SLOTS, description, include_deferred=False, session=session)


class GpuPoolPlugin(AirflowPlugin):
    name = "capsfusion_gpu_pool"
    listeners = [GpuPool()]  # noqa: RUF012
