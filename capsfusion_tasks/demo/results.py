"""What a demo ends with: captions to look at, counts that add up, and what to do next."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from capsfusion_tasks.context import open_context
from capsfusion_tasks.demo.progress import Day
from capsfusion_tasks.settings import Interval, Settings
from capsfusion_tasks.terminal import cell
from capsfusion_tasks.warehouse import ledger, queries
from capsfusion_tasks.warehouse.queries import RunSummary

CAPTIONS_SHOWN = 6
CAPTION_WIDTH = 200


@dataclass(frozen=True)
class Results:
    """What the warehouse has of some days, under the settings' fusion."""

    summary: RunSummary
    reasons: dict[str, int]
    captions: list[dict[str, Any]]


def read_results(settings: Settings, days: list[date]) -> Results:
    with open_context(settings) as context, context.warehouse.engine.connect() as connection:
        fusion_id = context.decoding.fusion_id
        units: list[str] = []
        for day in days:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            interval = Interval(start=start, end=start + timedelta(days=1))
            units += [unit.unit_id for unit, _ in ledger.units_of(connection, fusion_id, interval)]
        scope = queries.Scope(unit_ids=units)
        return Results(
            queries.run_summary(connection, scope),
            queries.rejections_by_reason(connection, scope),
            queries.sample_captions(connection, CAPTIONS_SHOWN, units),
        )


def show_results(
    before: Results, after: Results, announced: int, runs: list[Day], seconds: float, logs: str, console: Console
) -> int:
    """Captions and counts. The exit code: 1 where a run failed (``logs``: where to read why) or a pair is missing."""
    _show_captions(after, console)
    _show_counts(before, after, announced, seconds, console)
    if failed := [run for run in runs if run.state != "success"]:
        days = ", ".join(run.day for run in failed)
        console.print(f"the runs of {days} failed: {logs}", style="red", markup=False)
        return 1
    if after.summary.rows_in != announced:
        console.print(f"expected {announced} pairs, found {after.summary.rows_in}", style="red")
        return 1
    return 0


def _show_captions(results: Results, console: Console) -> None:
    if not results.captions:
        return
    table = Table("raw", "synthetic", "fused", show_lines=True)
    for row in results.captions:
        table.add_row(*(cell(_short(row[column])) for column in ("laion_2b", "laion_coco", "capsfusion")))
    console.print(table, soft_wrap=False)


def _show_counts(before: Results, after: Results, announced: int, seconds: float, console: Console) -> None:
    total = after.summary
    console.print(f"{announced} pairs in the sample: {total.accepted} captions accepted, {total.rejected} rejected")
    if after.reasons:
        console.print("rejected for: " + ", ".join(f"{reason} {count}" for reason, count in after.reasons.items()))
    if total.rows_per_second:
        console.print(f"{total.rows_per_second:.1f} captions/s per rank while fusing; {seconds:.0f} s in all")
    if before.summary.units and before.summary == after.summary:
        console.print("nothing was fused twice: an earlier demo had done these days, and no row has changed")


def _short(caption: str) -> str:
    return caption if len(caption) <= CAPTION_WIDTH else caption[: CAPTION_WIDTH - 1] + "…"


def show_next_steps(settings: Settings, console: Console) -> None:
    command = "capsfusion" if shutil.which("capsfusion") else str(Path(sys.executable).with_name("capsfusion"))
    if Path.cwd() in Path(command).parents:
        command = str(Path(command).relative_to(Path.cwd()))
    if settings.home != Path(".capsfusion").absolute():
        command = f"CAPSFUSION_HOME={settings.home} {command}"
    console.print("\nGo on with", style="bold")
    for line in (
        f"{command} up    Airflow's UI on these days (`make up`)",
        f'{command} sql "select laion_2b, laion_coco, capsfusion from fused_captions limit 5"',  # noqa: S608
        f"{command} fuse your.jsonl out.jsonl --model BAAI/CapsFus-LLaMA    your own pairs, on a GPU",
    ):
        console.print(f"  {line}", markup=False)
