"""Commands that check and clean the staging area (files between stages) and the ledger (database): check, gc."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.console import Console

from capsfusion_tasks.cli.common import settings_to_read, stderr, time_option
from capsfusion_tasks.errors import printable
from capsfusion_tasks.intervals import Interval


def check(
    start: Annotated[
        datetime | None, time_option("Check only data intervals that start at or after this time (UTC).")
    ] = None,
    end: Annotated[
        datetime | None, time_option("Check only data intervals that end at or before this time (UTC).")
    ] = None,
    footers: Annotated[
        bool,
        typer.Option(
            "--footers",
            help="Open every bucket file, and compare its number of rows with the number that the pull stage recorded."
            " Bucket files contain the rows of shards, divided by a hash of the URL.",
        ),
    ] = False,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Join the rows of LAION-2B and LAION-COCO again, and look for each pair in the work units and the"
            " warehouse. Takes as long as pairing all shards. Cannot be combined with --start or --end.",
        ),
    ] = False,
    sources: Annotated[
        bool,
        typer.Option(
            "--sources",
            help="List the sources again, and look for shards that no run has listed, for example because they appeared"
            " after the run of their data interval.",
        ),
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Repair the problems that can be repaired safely.")] = False,
    safe_hours: Annotated[
        float,
        typer.Option(
            help="Ignore files that are not in the ledger and are younger than this many hours: they may belong to a"
            " running task.",
            min=0,
        ),
    ] = 6.0,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="Output format.")] = "text",
) -> None:
    """Find lost, duplicated, incomplete and stuck work, and print how to repair it. Exit code 1 if a problem is left.

    Reads the ledger (the warehouse's tables of shards and work units), shard lists, the pull stage's records, and the
    pairs in units that are not loaded. Lists the files of the staging area. Counts each unit's captions in the
    warehouse. Reads bucket files only with --footers or --pairs, and sources only with --sources. Changes nothing
    without --repair. Never changes files of a running task.

    Example: capsfusion check --start 2026-11-10 --end 2026-11-13 --footers
    """
    import json
    from datetime import timedelta

    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.upkeep.check import check as check_all
    from capsfusion_tasks.warehouse.queries import Scope

    within = Interval(start=start or datetime.min, end=end or datetime.max) if start or end else None
    settings = settings_to_read()
    with Working(stderr) as working, open_context(settings) as context:
        result = check_all(
            context,
            Scope(interval=within),
            footers=footers,
            pairs=pairs,
            sources=sources,
            repair=repair,
            safe_age=timedelta(hours=safe_hours),
            doing=working.doing,
        )
    if output_format == "json":
        print(json.dumps(result.as_dict()))
    else:
        for line in result.lines():
            Console().print(printable(line), highlight=False, markup=False, soft_wrap=True)
    if result.left:
        raise typer.Exit(1)


def gc(
    keep_days: Annotated[
        float | None,
        typer.Option(
            help="Days to keep the files of a work unit after its load. Default: CAPSFUSION_KEEP_UNITS_DAYS.",
            min=0,
        ),
    ] = None,
    safe_hours: Annotated[
        float,
        typer.Option(
            help="Keep for at least this many hours what a running task may use: temporary files, scratch folders,"
            " and files that are not in the ledger.",
            min=0,
        ),
    ] = 6.0,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete the files. By default they are only listed.")
    ] = False,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="Output format.")] = "text",
) -> None:
    """List files that are no longer needed, in the staging area and this machine's scratch folder.

    Deletes them only with --delete. These files are no longer needed: files of loaded work units, pairs of finished
    replays (a replay processes rejected captions again), files of units that are not in the ledger (the warehouse's
    tables of shards and units), and files that killed processes left behind. If a data interval has a unit that is not
    loaded, all files of the interval are kept. Buckets (the rows of shards), shard lists and the pairs of each interval
    are always kept, because later runs need them.

    Example: capsfusion gc --keep-days 30 --delete
    """
    import json
    from datetime import timedelta

    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.upkeep.garbage import collect

    settings = settings_to_read(keep_units_days=keep_days)
    with Working(stderr), open_context(settings) as context:
        collected = collect(context, safe_age=timedelta(hours=safe_hours), delete=delete)
    if output_format == "json":
        print(json.dumps(collected.as_dict()))
    else:
        for line in collected.lines():
            Console().print(printable(line), highlight=False, markup=False, soft_wrap=True)
