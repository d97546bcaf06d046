"""Creates the pool ``gpu`` when a scheduler starts. Airflow leaves tasks of a pool that does not exist waiting, silently."""

from __future__ import annotations

from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

POOL = "gpu"
SLOTS = 1  # one torchrun takes all GPUs of its node: give the pool as many slots as there are GPU nodes


class GpuPool:
    """Listens for the scheduler's start. An existing pool stays as it is."""

    @hookimpl
    def on_starting(self, component: Any) -> None:
        if getattr(component, "job_type", None) != "SchedulerJob":
            return
        from airflow.models.pool import Pool  # here, because tasks load plugins as well and may not touch the database
        from airflow.utils.session import create_session

        with create_session() as session:
            if Pool.get_pool(POOL, session=session) is None:
                Pool.create_or_update_pool(
                    POOL, SLOTS, "Fuse tasks: one slot a GPU node.", include_deferred=False, session=session
                )


class GpuPoolPlugin(AirflowPlugin):
    name = "capsfusion_gpu_pool"
    listeners = [GpuPool()]  # noqa: RUF012 (declared so by AirflowPlugin)
