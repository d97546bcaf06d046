"""Commands that keep it in order: check, gc."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.console import Console

from capsfusion_tasks.errors import printable
from capsfusion_tasks.settings import Interval, load_settings


def check(
    start: Annotated[
        datetime | None, typer.Option(help="Data intervals from this time (UTC) on. Default: everything.")
    ] = None,
    end: Annotated[datetime | None, typer.Option(help="… that end at this one or before.")] = None,
    footers: Annotated[
        bool, typer.Option("--footers", help="Open every bucket file: is it whole, are its rows all there?")
    ] = False,
    pairs: Annotated[
        bool,
        typer.Option(
            "--pairs",
            help="Join all buckets again, one after the other, and look for each pair: as long as pairing all shards.",
        ),
    ] = False,
    sources: Annotated[
        bool,
        typer.Option(
            "--sources", help="List the sources, too: did a shard come after its interval's run had listed them?"
        ),
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Do what is safe about it, and say what was done.")] = False,
    safe_hours: Annotated[
        float,
        typer.Option(
            help="Younger files that nobody knows may be somebody's who is at work, and count as right.", min=0
        ),
    ] = 6.0,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
) -> None:
    """Look for what is lost, doubled, half-written or stuck, and say what mends it. Exit code 1: something is wrong.

    It reads the ledger, the staging area's listing, its lists of shards and what each pull has noted, the pair_ids and
    footers of units that are not loaded, and counts the captions of each unit by an index. Captions and bucket files
    are not read without --footers and --pairs, sources not listed without --sources. Nothing is changed without
    --repair, and what is being worked on never.

    Example: capsfusion check --start 2026-11-10 --end 2026-11-13 --footers
    """
    import json
    from datetime import timedelta

    from capsfusion_tasks.upkeep.check import check as check_all
    from capsfusion_tasks.warehouse.queries import Scope

    within = Interval(start=start or datetime.min, end=end or datetime.max) if start or end else None
    result = check_all(
        load_settings(),
        Scope(interval=within),
        footers=footers,
        pairs=pairs,
        sources=sources,
        repair=repair,
        safe_age=timedelta(hours=safe_hours),
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
        typer.Option(help="Keep units for so long after they were loaded. Default: CAPSFUSION_KEEP_UNITS_DAYS.", min=0),
    ] = None,
    safe_hours: Annotated[
        float, typer.Option(help="Keep temporary files and scratch folders that were written since.", min=0)
    ] = 6.0,
    delete: Annotated[bool, typer.Option("--delete", help="Delete it. Without, it is only told.")] = False,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
) -> None:
    """Tell what nothing needs any more in the staging area and in this machine's scratch space, or --delete it.

    Files of loaded units, pairs of ended replays, files of units that the ledger does not have, and what killed
    processes have left. Never what a unit needs that is not loaded, nor anything of an interval that has such a unit;
    never buckets, lists of shards or pairs of intervals: rows that arrive later find their partners there.

    Example: capsfusion gc --keep-days 30 --delete
    """
    import json
    from datetime import timedelta

    from capsfusion_tasks.upkeep.garbage import collect

    settings = load_settings(keep_units_days=keep_days)
    collected = collect(settings, safe_age=timedelta(hours=safe_hours), delete=delete)
    if output_format == "json":
        print(json.dumps(collected.as_dict()))
    else:
        for line in collected.lines():
            Console().print(printable(line), highlight=False, markup=False, soft_wrap=True)
