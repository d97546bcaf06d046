"""Metrics of the tasks, sent the way Airflow is configured to send its own (StatsD or OpenTelemetry)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.observability import stats


def fused(figures: Mapping[str, Any]) -> None:
    """Count a fused unit: rows, tokens, device seconds, rows per second."""
    for name in ("rows", "prompt_tokens", "caption_tokens"):
        stats.incr(f"capsfusion.fuse.{name}", int(figures[name]))
    stats.timing("capsfusion.fuse.device_time", 1000 * figures["gpu_seconds"])
    if rate := figures["rows_per_second"]:
        stats.gauge("capsfusion.fuse.rows_per_second", rate)
    if occupancy := figures["occupancy"]:  # share of the engine's slots that held a row
        stats.gauge("capsfusion.fuse.occupancy", occupancy)


def validated(counts: Mapping[str, Any]) -> None:
    """Count a validated unit: accepted rows, rows that another beam rescued, and rejected rows by reason.

    A unit that was loaded before counts 0.
    """
    if counts["already_loaded"]:
        return
    stats.incr("capsfusion.validate.accepted", counts["accepted"])
    stats.incr("capsfusion.validate.rejected", counts["rejected"])
    stats.incr("capsfusion.validate.rescued", counts["rescued"])
    for reason, rows in counts["reasons"].items():
        stats.incr(f"capsfusion.validate.rejected.{reason}", rows)


def loaded(counts: Mapping[str, Any]) -> None:
    """Count the rows of a loaded unit. A unit that was loaded before counts 0."""
    if not counts["already_loaded"]:
        stats.incr("capsfusion.load.rows", counts["accepted"] + counts["rejected"])
