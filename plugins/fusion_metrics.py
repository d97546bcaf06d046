"""What the tasks did, in Airflow's own metrics (StatsD or OpenTelemetry, as Airflow is configured)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk.observability import stats


def fused(figures: Mapping[str, Any]) -> None:
    """A unit is fused: its rows and tokens, the seconds its devices took, and how fast they were."""
    for name in ("rows", "prompt_tokens", "caption_tokens"):
        stats.incr(f"capsfusion.fuse.{name}", int(figures[name]))
    stats.timing("capsfusion.fuse.device_time", 1000 * figures["gpu_seconds"])
    if rate := figures["rows_per_second"]:
        stats.gauge("capsfusion.fuse.rows_per_second", rate)
    if occupancy := figures["occupancy"]:  # share of the engine's slots that had a row
        stats.gauge("capsfusion.fuse.occupancy", occupancy)


def validated(counts: Mapping[str, Any]) -> None:
    """A unit has its verdicts: accepted rows, and rejected ones by reason; nothing, where it was loaded before."""
    if counts["already_loaded"]:
        return
    stats.incr("capsfusion.validate.accepted", counts["accepted"])
    stats.incr("capsfusion.validate.rejected", counts["rejected"])
    for reason, rows in counts["reasons"].items():
        stats.incr(f"capsfusion.validate.rejected.{reason}", rows)


def loaded(counts: Mapping[str, Any]) -> None:
    """A unit is in the warehouse; nothing, where it was there before."""
    if not counts["already_loaded"]:
        stats.incr("capsfusion.load.rows", counts["accepted"] + counts["rejected"])
