"""Links on the pages of tasks: from ``fuse`` to the throughput of its run, from ``load`` to the run's captions.

The links belong to the plugin, not to the operators, so that the API server computes them. Only this server knows the
address under which users reach it. The server computes a link on request, even while a task runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink
from captions_view import PAGE
from load_operator import LoadOperator
from run_pages import base_path, captions_of_run
from torchrun_operator import TorchrunOperator

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey


class ThroughputLink(BaseOperatorLink):
    name = "Throughput of this run"
    operators = [TorchrunOperator]  # noqa: RUF012

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        return captions_of_run(ti_key.dag_id, ti_key.run_id)


class CaptionsLink(BaseOperatorLink):
    name = "Captions of this run"
    operators = [LoadOperator]  # noqa: RUF012

    def get_link(self, operator: BaseOperator, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002
        return f"{base_path()}{PAGE}?view=captions&dag_run_id={quote(ti_key.run_id, safe='')}"


class UnitLinksPlugin(AirflowPlugin):
    name = "capsfusion_unit_links"
    operator_extra_links: list[Any] = [ThroughputLink(), CaptionsLink()]  # noqa: RUF012
