"""Commands for a demonstration: sample-data, demo, up."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from capsfusion_tasks.cli.common import local_path, not_empty, stderr, time_option
from capsfusion_tasks.settings import load_settings

_FIRST_DAY: Any = "2026-11-10"  # a str and not a datetime, because typer also parses default values


def sample_data(
    folder: Annotated[
        Path,
        typer.Argument(
            parser=local_path,
            metavar="DIR",
            help="Folder for the shards: new, empty, or from an earlier call with the same options.",
        ),
    ],
    rows_per_day: Annotated[int, typer.Option(help="Approximate number of pairs per day.", min=10)] = 250,
    days: Annotated[int, typer.Option(help="Number of days on which shards arrive.", min=1)] = 3,
    first_day: Annotated[datetime, time_option("First day on which shards arrive.")] = _FIRST_DAY,
    seed: Annotated[int, typer.Option(help="Seed of the random numbers. The same seed gives the same files.")] = 0,
    copies: Annotated[
        int, typer.Option(help="Write the sample this many times, each time with different image URLs.", min=1)
    ] = 1,
    unmatched: Annotated[
        int,
        typer.Option(help="For each LAION-2B row, add this many LAION-2B rows whose images LAION-COCO lacks.", min=0),
    ] = 0,
) -> None:
    """Write sample shards with LAION's columns and the edge cases of real shards.

    Prints the number of pairs that a run on these shards must find.

    For ten million LAION-2B rows: capsfusion sample-data DIR --rows-per-day 10000 --days 1 --copies 207 --unmatched 3
    """
    from capsfusion_tasks.demo.sample_data import write_sample_data
    from capsfusion_tasks.terminal import Working

    with Working(stderr):
        report = write_sample_data(
            folder,
            rows_per_day=rows_per_day,
            days=days,
            first_day=first_day.date(),
            seed=seed,
            copies=copies,
            unmatched=unmatched,
        )
    Console().print(report.table())


def demo(
    airflow: Annotated[
        str | None,
        typer.Option(
            parser=not_empty, metavar="URL", help="Use the Airflow that runs at URL. Default: start a new one."
        ),
    ] = None,
) -> None:
    """Run the pipeline on made-up captions: start Airflow and PostgreSQL, and backfill sample shards of three days."""
    if airflow is not None:
        from capsfusion_tasks.demo.cluster_demo import run_demo_on

        raise typer.Exit(run_demo_on(load_settings(), airflow))
    from capsfusion_tasks.demo.airflow_demo import run_demo

    raise typer.Exit(run_demo(load_settings()))


def up(
    port: Annotated[int, typer.Option(help="Port of Airflow's UI.", min=1, max=65535)] = 8080,
) -> None:
    """Run Airflow with its UI, and an embedded PostgreSQL server, until Ctrl-C."""
    from capsfusion_tasks.demo.airflow_demo import up as keep_up

    raise typer.Exit(keep_up(load_settings(), port=port))
