"""Runs torchrun for a work unit, and ends torchrun when Airflow ends the task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import fusion_metrics
from airflow.sdk import BaseOperator
from run_context import set_label, working

if TYPE_CHECKING:
    from airflow.sdk import Context

    from capsfusion_tasks.context import Context as PipelineContext
    from capsfusion_tasks.fusion.launcher import Torchrun
    from capsfusion_tasks.schemas import Unit


class TorchrunOperator(BaseOperator):
    """Fuses one work unit. Only the processes that torchrun starts (ranks) import torch; this process never does.

    :param unit: the unit, as ``Unit.model_dump(mode="json")`` gives it
    """

    template_fields = ("unit",)

    def __init__(self, *, unit: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(unit, dict):  # check a unit from the DAG file now; execute checks units that other tasks return
            from capsfusion_tasks.schemas import Unit

            Unit(**unit)
        self.unit = unit
        self._torchrun: Torchrun | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        from capsfusion_tasks.schemas import Unit
        from capsfusion_tasks.tasks import unit_tasks

        unit = Unit(**self.unit)
        set_label(context, unit.label)
        with working() as work:
            if (figures := unit_tasks.fused_and_loaded(work, unit)) is not None:
                return figures
            with unit_tasks.at_work(work, unit):
                return self._fuse(work, unit)

    def _fuse(self, work: PipelineContext, unit: Unit) -> dict[str, Any]:
        from capsfusion_tasks.fusion.launcher import Torchrun
        from capsfusion_tasks.fusion.torchrun_command import environment_defaults
        from capsfusion_tasks.fusion.watchdog import Timeouts
        from capsfusion_tasks.tasks import metrics, unit_tasks

        unit_tasks.fuse_started(work, unit)
        try:
            if unit_tasks.is_fused(work, unit):
                return unit_tasks.fuse_finished(work, unit)
            argv, timeouts = unit_tasks.fuse_argv(work, unit), Timeouts.of(work.settings)
            defaults = environment_defaults(work.settings)
            self._torchrun = Torchrun(argv, on_line=self.log.info, timeouts=timeouts, defaults=defaults)
            with fusion_metrics.timed("fuse"):
                self._torchrun.start()
                self._torchrun.wait()
            figures = unit_tasks.fuse_finished(work, unit)
        except BaseException as error:  # BaseException, because Airflow's timeout is not an Exception
            if self._torchrun:
                self._torchrun.terminate()
            unit_tasks.fuse_failed(work, unit, str(error))
            raise
        fusion_metrics.send(metrics.fused(figures))
        return figures

    def on_kill(self) -> None:
        # Only signal torchrun and return, because Airflow sends SIGKILL after five seconds. torchrun ends its ranks.
        # Airflow's signals do not reach the ranks, because each rank has its own session.
        if self._torchrun:
            self._torchrun.terminate()
