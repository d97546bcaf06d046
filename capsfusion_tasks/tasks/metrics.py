"""The metrics of the tasks: their names and values. ``plugins/fusion_metrics.py`` sends them.

The tasks return these values, and the run's report shows them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from capsfusion_tasks.context import Context
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.warehouse import queries

Kind = Literal["counter", "gauge", "timer"]
Samples = dict[str, float]  # name of a metric → its value; the values of timers are in milliseconds

REASON = "<reason>"  # placeholder for a reason in a metric's name


@dataclass(frozen=True)
class Metric:
    kind: Kind
    what: str


METRICS = {
    "capsfusion.pull.rows": Metric("counter", "rows of pulled shards"),
    "capsfusion.pull.dropped": Metric("counter", "rows of pulled shards that were dropped"),
    f"capsfusion.pull.dropped.{REASON}": Metric("counter", "rows dropped for one reason: `unsafe`, `null_caption`, …"),
    "capsfusion.pair.pairs": Metric("counter", "pairs that `pair` tasks found"),
    "capsfusion.plan.units": Metric("counter", "units that a run has to fuse"),
    "capsfusion.plan.rows": Metric("counter", "pairs that a run has to fuse"),
    "capsfusion.queue.units": Metric("gauge", "units that are planned but not loaded, of all runs"),
    "capsfusion.queue.rows": Metric("gauge", "pairs in units that are planned but not loaded, of all runs"),
    "capsfusion.queue.failed_units": Metric("gauge", "units whose last try failed"),
    "capsfusion.fuse.rows": Metric("counter", "rows of fused units"),
    "capsfusion.fuse.prompt_tokens": Metric("counter", "tokens of the prompts of fused units"),
    "capsfusion.fuse.caption_tokens": Metric("counter", "tokens that the model generated"),
    "capsfusion.fuse.device_time": Metric("timer", "time of fusing a unit, summed over the devices"),
    "capsfusion.fuse.duration": Metric("timer", "wall time of fusing a unit, including the time to load the model"),
    "capsfusion.fuse.rows_per_second": Metric("gauge", "rows per second of one device, in the unit fused last"),
    "capsfusion.fuse.occupancy": Metric(
        "gauge", "share of the engine's slots (places in its batch) that held a row, in the unit fused last"
    ),
    "capsfusion.validate.accepted": Metric("counter", "captions that validation accepted"),
    "capsfusion.validate.rejected": Metric("counter", "captions that validation rejected"),
    f"capsfusion.validate.rejected.{REASON}": Metric(
        "counter", "captions rejected for one reason; a caption may have several reasons"
    ),
    "capsfusion.validate.rescued": Metric("counter", "accepted captions that are not from the best beam"),
    "capsfusion.validate.held": Metric("counter", "units that the gate holds, because too many captions are rejected"),
    "capsfusion.validate.duration": Metric("timer", "wall time of validating a unit"),
    "capsfusion.load.rows": Metric("counter", "loaded rows, both accepted and rejected"),
    "capsfusion.load.duration": Metric("timer", "wall time of loading a unit"),
}


def kind_of(name: str) -> Kind:
    """The kind of the metric ``name``, which may end with a reason."""
    known = METRICS.get(name) or METRICS[f"{name.rpartition('.')[0]}.{REASON}"]
    return known.kind


def pulled(counts: Mapping[str, Any]) -> Samples:
    """The metrics of a pulled shard, from the result of ``interval_tasks.pull``."""
    return {"capsfusion.pull.rows": counts["rows"], **_by_reason("capsfusion.pull.dropped", counts["dropped"])}


def paired(counts: Mapping[str, Any]) -> Samples:
    """The metrics of joined buckets, from the result of ``interval_tasks.pair``."""
    return {"capsfusion.pair.pairs": counts["pairs"]}


def planned(units: Sequence[Unit]) -> Samples:
    return {"capsfusion.plan.units": len(units), "capsfusion.plan.rows": sum(unit.rows for unit in units)}


def queue(context: Context) -> Samples:
    """The numbers of units and rows that are not loaded. Call this only if metrics are sent, because it takes time."""
    with context.warehouse.engine.connect() as connection:
        states = queries.unit_counts(connection)
        rows = queries.run_summary(connection).waiting
    units = sum(count for state, count in states.items() if state != "loaded")
    return {
        "capsfusion.queue.units": units,
        "capsfusion.queue.rows": rows,
        "capsfusion.queue.failed_units": states["failed"],
    }


def fused(figures: Mapping[str, Any]) -> Samples:
    """The metrics of a fused unit, from the result of ``unit_tasks.fuse_finished``. Leaves out rates that are None."""
    samples = {f"capsfusion.fuse.{name}": figures[name] for name in ("rows", "prompt_tokens", "caption_tokens")}
    samples["capsfusion.fuse.device_time"] = 1000 * figures["gpu_seconds"]
    rates = {f"capsfusion.fuse.{name}": figures[name] for name in ("rows_per_second", "occupancy")}
    return samples | {name: value for name, value in rates.items() if value is not None}


def validated(counts: Mapping[str, Any]) -> Samples:
    """The metrics of a validated unit, from the result of ``unit_tasks.validate``. Empty if the unit is loaded."""
    if counts["already_loaded"]:
        return {}
    samples = {f"capsfusion.validate.{name}": counts[name] for name in ("accepted", "rescued", "rejected")}
    reasons = {f"capsfusion.validate.rejected.{reason}": rows for reason, rows in counts["reasons"].items()}
    return samples | reasons | {"capsfusion.validate.held": int(counts["held"])}


def loaded(counts: Mapping[str, Any]) -> Samples:
    """The metrics of a loaded unit, from the result of ``unit_tasks.load``. Empty if an earlier try loaded the unit."""
    if counts["already_loaded"]:
        return {}
    return {"capsfusion.load.rows": counts["accepted"] + counts["rejected"]}


def _by_reason(name: str, rows: Mapping[str, int]) -> Samples:
    return {name: sum(rows.values()), **{f"{name}.{reason}": count for reason, count in rows.items()}}
