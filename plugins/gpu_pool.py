"""Sees to it that the pool ``gpu`` is there: tasks of a missing pool wait for ever, and the UI does not say why."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from airflow.models.dagrun import DagRun

DAGS = ("capsfusion", "capsfusion_replay")
POOL = "gpu"
SLOTS = 1  # one torchrun takes all GPUs of its node: give the pool as many slots as there are GPU nodes


class GpuPool:
    """Creates the pool when a run of one of the DAGs starts. A pool that exists stays as it is."""

    @hookimpl
    def on_dag_run_running(self, dag_run: DagRun) -> None:
        if dag_run.dag_id not in DAGS:
            return
        # Imported here, in the scheduler: tasks load plugins too, and have no database.
        from airflow.models.pool import Pool
        from airflow.utils.session import create_session

        # A session of our own: the scheduler's is in the middle of a transaction, and must not be committed here.
        with create_session(scoped=False) as session:
            if Pool.get_pool(POOL, session=session) is None:
                description = "Fuse tasks: a slot per GPU node."
                Pool.create_or_update_pool(POOL, SLOTS, description, include_deferred=False, session=session)


class GpuPoolPlugin(AirflowPlugin):
    name = "capsfusion_gpu_pool"
    listeners = [GpuPool()]  # noqa: RUF012
