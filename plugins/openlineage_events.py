"""Reports to OpenLineage what a task read and wrote, if Airflow's OpenLineage provider is installed and enabled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from capsfusion_tasks.context import Context
    from capsfusion_tasks.schemas import Shard, Unit
    from capsfusion_tasks.tasks.task_lineage import TaskLineage

log = logging.getLogger(__name__)

_Arguments = ParamSpec("_Arguments")


def is_on() -> bool:
    """Whether Airflow sends OpenLineage events. If Airflow sends none, OpenLineage's client is not imported."""
    if find_spec("airflow.providers.openlineage") is None:
        return False
    from airflow.providers.openlineage import conf

    return not conf.is_disabled()


def _sent(describe: Callable[_Arguments, TaskLineage | None]) -> Callable[_Arguments, None]:
    """A decorator: send the lineage that ``describe`` returns, as an event of the running task."""

    @wraps(describe)
    def send(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        if not is_on():
            return
        try:
            from airflow.providers.openlineage.api import emit_dataset_lineage

            if lineage := describe(*args, **kwargs):
                emit_dataset_lineage(
                    inputs=lineage.inputs,
                    outputs=lineage.outputs,
                    additional_run_facets=lineage.run_facets,
                    raise_on_error=True,
                )
        except Exception:  # do not fail the task, because a retry would repeat finished work
            log.exception("could not send to OpenLineage what this task read and wrote; the task itself is done")

    return send


@_sent
def pulled(work: Context, shard: Shard, counts: Mapping[str, Any]) -> TaskLineage:
    from capsfusion_tasks.tasks.task_lineage import of_pull

    return of_pull(work, shard, counts)


@_sent
def loaded(work: Context, unit: Unit, counts: Mapping[str, Any]) -> TaskLineage | None:
    """Send the lineage of a loaded unit. Sends nothing if the unit was loaded before, because nothing was written."""
    from capsfusion_tasks.tasks.task_lineage import of_load

    return None if counts["already_loaded"] else of_load(work, unit, counts)


@_sent
def exported(work: Context, result: Mapping[str, Any]) -> TaskLineage:
    from capsfusion_tasks.tasks.task_lineage import of_export

    return of_export(work, result)
