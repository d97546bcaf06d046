"""Sends metrics of tasks to StatsD or OpenTelemetry, and adds the metrics to traces, if Airflow's settings say so."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk.configuration import conf
from airflow.sdk.observability import stats
from opentelemetry import trace

if TYPE_CHECKING:
    from capsfusion_tasks.context import Context
    from capsfusion_tasks.tasks.metrics import Samples

_SWITCHES = ("statsd_on", "statsd_datadog_enabled", "otel_on")


def send(samples: Samples) -> None:
    """Send the figures as metrics, and add them to the span of the task. Does nothing if metrics and traces are off."""
    from capsfusion_tasks.tasks.metrics import kind_of

    senders: dict[str, Callable[[str, Any], None]] = {
        "counter": stats.incr,
        "gauge": stats.gauge,
        "timer": stats.timing,
    }
    for name, value in samples.items():
        senders[kind_of(name)](name, value)
    trace.get_current_span().set_attributes(samples)


def send_queue(work: Context) -> None:
    """Send the numbers of units and rows that are not loaded yet. Queries the ledger only if metrics are on."""
    from capsfusion_tasks.tasks.metrics import queue

    if any(conf.getboolean("metrics", switch) for switch in _SWITCHES):
        send(queue(work))


def timed(stage: str) -> AbstractContextManager[Any]:
    """Send the duration of a ``with`` block as ``capsfusion.<stage>.duration``, even if the block raises."""
    return cast(AbstractContextManager[Any], stats.timer(f"capsfusion.{stage}.duration"))
