"""Checks Airflow's limit on the number of tasks in a mapped task. The error says which Airflow setting to change."""

from __future__ import annotations

from airflow.sdk.configuration import conf

from capsfusion_tasks.errors import InputError


def max_tasks() -> int:
    """The maximum number of tasks that one mapped task can expand to (``core.max_map_length``)."""
    return int(conf.getint("core", "max_map_length"))


def require_mappable(count: int, what: str) -> None:
    """Raise InputError if Airflow does not allow ``count`` mapped tasks. ``what``: what the tasks are for."""
    if count > (most := max_tasks()):
        raise InputError(
            f"{count} {what} need a task each, but Airflow allows {most}: set AIRFLOW__CORE__MAX_MAP_LENGTH to {count}"
            " or more for all of Airflow's components, restart them, and clear this task"
        )
