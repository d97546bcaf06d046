"""Prints the results of the demo: some captions, counts, and the next commands."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from rich.console import Console
from rich.table import Table

from capsfusion_tasks.context import open_context
from capsfusion_tasks.demo.airflow_server import REPOSITORY
from capsfusion_tasks.demo.progress import DayRun
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.terminal import cell
from capsfusion_tasks.warehouse import ledger, queries
from capsfusion_tasks.warehouse.queries import AcceptedCaption, RunSummary
from capsfusion_tasks.warehouse.rejections import reasons_line, rejected_count

CAPTIONS_SHOWN = 6
CAPTIONS_READ = 100  # number of captions from which the shown captions are chosen
CAPTION_WIDTH = 200
EXAMPLE = Path("examples") / "pairs.jsonl"


@dataclass(frozen=True)
class Results:
    """The warehouse's contents for some days and one fusion_id. ``reasons``: reason → number of rejected captions."""

    summary: RunSummary
    rejected: int
    reasons: dict[str, int]
    captions: list[AcceptedCaption]


def read_results(settings: Settings, days: list[date]) -> Results:
    with open_context(settings) as context, context.warehouse.engine.connect() as connection:
        fusion_id = context.decoding.fusion_id
        units: list[str] = []
        for day in days:
            start = datetime(day.year, day.month, day.day, tzinfo=UTC)
            interval = Interval(start=start, end=start + timedelta(days=1))
            units += [one.unit.unit_id for one in ledger.units_of(connection, fusion_id, interval)]
        scope = queries.Scope(unit_ids=units)
        captions = queries.sample_captions(connection, CAPTIONS_READ, units)
        return Results(
            queries.run_summary(connection, scope),
            rejected_count(connection, scope),
            queries.rejections_by_reason(connection, scope),
            sorted(captions, key=lambda caption: not _is_plain(caption))[:CAPTIONS_SHOWN],
        )


def _is_plain(caption: AcceptedCaption) -> bool:
    """Whether a caption is a good example: not flagged by validation, short, and faithful to its raw caption."""
    return not caption.flags and 8 <= (caption.caption_words or 0) <= 30 and (caption.raw_recall or 0) >= 0.7


def show_results(
    before: Results, after: Results, announced: int, runs: list[DayRun], seconds: float, logs: str, console: Console
) -> int:
    """Print captions and counts. Returns the exit code: 1 if a run failed or the number of pairs is wrong.

    ``before``: the warehouse's contents when the demo began. ``announced``: number of pairs in the sample. ``logs``:
    where to find the logs of failed runs, such as "see http://localhost:8080".
    """
    _show_captions(after, console)
    _show_counts(before, after, announced, seconds, console)
    if failed := [run for run in runs if run.state != "success"]:
        days = ", ".join(run.day for run in failed)
        console.print(f"the runs of {days} failed: {logs}", style="red", markup=False)
        return 1
    if after.summary.rows_in != announced:
        console.print(f"the sample has {announced} pairs, but the runs found {after.summary.rows_in}", style="red")
        return 1
    return 0


def _show_captions(results: Results, console: Console) -> None:
    if not results.captions:
        return
    shown, accepted = len(results.captions), results.summary.accepted
    console.print(
        f"\n{shown} of the {accepted} accepted captions, chosen among short ones that validation did not flag",
        style="bold",
    )
    table = Table("raw", "synthetic", "fused", show_lines=True)
    for caption in results.captions:
        table.add_row(*(cell(_short(text)) for text in (caption.laion_2b, caption.laion_coco, caption.capsfusion)))
    console.print(table, soft_wrap=False)


def _show_counts(before: Results, after: Results, announced: int, seconds: float, console: Console) -> None:
    total = after.summary
    console.print(f"{announced} pairs in the sample = {total.accepted} captions accepted + {total.rejected} rejected")
    if after.reasons:
        console.print(reasons_line(after.rejected, after.reasons))
    if total.rows_per_second:
        console.print(f"{total.rows_per_second:.1f} captions/s per process while fusing; {seconds:.0f} s in total")
    if before.summary.units and before.summary == after.summary:
        console.print("nothing to fuse: an earlier demo has already fused the captions of these days")


def _short(caption: str) -> str:
    return caption if len(caption) <= CAPTION_WIDTH else caption[: CAPTION_WIDTH - 1] + "…"


def show_next_steps(settings: Settings, console: Console) -> None:
    """Print commands that the user can copy. They work in the user's shell and working folder."""
    installed = Path(sys.executable).with_name("capsfusion")
    program = str(_from_here(installed))
    if (found := shutil.which("capsfusion")) and Path(found) == installed:  # the shell may find another installation
        program = "capsfusion"
    here = program if settings.home == Path(".capsfusion").absolute() else f"CAPSFUSION_HOME={settings.home} {program}"
    pairs, page = _from_here(REPOSITORY / EXAMPLE), _from_here(REPOSITORY / "docs" / "first-hour.md")
    console.print("\nNext commands", style="bold")
    for purpose, command in (
        ("what was done, and by which model:", f"{here} status"),
        (
            "more captions, with SQL:",
            f'{here} sql "select laion_2b, laion_coco, capsfusion from fused_captions limit 5"',  # noqa: S608
        ),
        ("Airflow's UI with these runs, until Ctrl-C:", f"{here} up"),
        ("fuse a file of pairs with the toy model, in ten seconds:", f"{program} fuse {pairs} fused.jsonl"),
        (
            "the same with the real model, on a GPU (downloads 26 GB):",
            f"{program} fuse {pairs} real.jsonl --model BAAI/CapsFus-LLaMA",
        ),
    ):
        console.print(f"  {purpose}\n    {command}", markup=False)
    console.print(f"  your own files and shards, step by step: {page}", markup=False)


def _from_here(path: Path) -> Path:
    """``path`` as a user types it in the working folder."""
    return path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path
