"""Commands on the warehouse (PostgreSQL): status, sql, export, db upgrade."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated, Literal, NoReturn

import typer

from capsfusion_tasks.cli.common import not_empty, progress_line, settings_to_read, stderr, time_option
from capsfusion_tasks.settings import load_settings


def status() -> None:
    """Show finished, waiting and failed work, the throughput, and why captions were rejected.

    Example: capsfusion status
    """
    from capsfusion_tasks.tasks.report import report_all
    from capsfusion_tasks.terminal import Working, print_text
    from capsfusion_tasks.warehouse.connection import open_warehouse

    settings = settings_to_read()
    with Working(stderr), open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        report = report_all(connection)
    print_text(report.text)


def sql(
    statement: Annotated[str | None, typer.Argument(help="The SQL query. Without a query, psql starts.")] = None,
    output_format: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="Output format.")
    ] = "table",
) -> None:
    """Run a read-only query on the warehouse. Table names need no schema.

    Example: capsfusion sql "select laion_2b, laion_coco, capsfusion from fused_captions limit 5"
    """
    from capsfusion_tasks.terminal import Working, print_rows
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.psql import psql_command
    from capsfusion_tasks.warehouse.sql import execute_sql

    settings = settings_to_read()
    if statement is None:
        with open_warehouse(settings) as warehouse:
            _interactive(*psql_command(warehouse))
    with Working(stderr), open_warehouse(settings) as warehouse:
        rows = execute_sql(warehouse, statement)
    print_rows(rows, output_format)


def _interactive(argv: list[str], env: dict[str, str]) -> NoReturn:
    import subprocess

    # Run psql as a child process and not with exec, because this process must stop the embedded PostgreSQL afterwards.
    raise typer.Exit(subprocess.run(argv, env={**os.environ, **env}, check=False).returncode)


def export(
    target: Annotated[
        str,
        typer.Argument(
            parser=not_empty,
            metavar="DIR",
            help="Where to write: a new or empty folder, s3://bucket/prefix, or hf://datasets/owner/name.",
        ),
    ],
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,…",
            help="More columns to export, from the database view named captions. image_url, laion_2b, laion_coco and"
            " capsfusion are always exported.",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            parser=not_empty,
            metavar="ID",
            help="Export captions of this fusion_id, which stands for a model and its settings. Default: the newest"
            " caption of each pair.",
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            metavar="SQL",
            help="Export only captions for which this SQL condition is true. It can use all columns of fused_captions.",
        ),
    ] = None,
    start: Annotated[datetime | None, time_option("Export captions loaded at or after this time (UTC).")] = None,
    end: Annotated[datetime | None, time_option("Export captions loaded before this time (UTC).")] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="Export at most this many captions: those with the lowest pair_ids. A pair_id is a hash, so these"
            " captions are a random sample.",
            min=1,
        ),
    ] = None,
    rows_per_file: Annotated[
        int, typer.Option(help="Rows in each file. The last file may have fewer.", min=1)
    ] = 1_000_000,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export in DIR, finished or not.")] = False,
) -> None:
    """Export accepted captions as Parquet files with the columns of CapsFusion-120M. Repeat the command to resume.

    Writes data/part-00000.parquet, data/part-00001.parquet, …, sorted by pair_id, then _manifest.json with the query,
    counts and checksums. A resumed export contains the captions that the warehouse had when the export began.

    Example: capsfusion export captions --where "raw_recall > 0.8 and punsafe < 0.1" --columns similarity,fusion_id

    Example: capsfusion export hf://datasets/owner/name
    """
    from capsfusion_tasks.tasks.export import export_captions, export_target
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.export_selection import Selection, named_columns

    selection = Selection(
        columns=named_columns(columns),
        fusion_id=fusion,
        loaded_from=start,
        loaded_before=end,
        where=where,
        limit=limit,
    )
    settings = settings_to_read()
    with (
        Working(stderr) as working,
        export_target(target, settings.scratch_folder) as place,
        open_warehouse(settings) as warehouse,
    ):
        manifest = export_captions(
            warehouse,
            place,
            selection,
            rows_per_file=rows_per_file,
            overwrite="always" if overwrite else "never",
            say=working.say,
        )
    progress_line(
        f"{target}: {manifest.rows} captions in {len(manifest.files)} files, as of"
        f" {manifest.snapshot.at:%Y-%m-%d %H:%M:%S} UTC"
    )


def db_upgrade() -> None:
    """Create or migrate the warehouse's tables and roles.

    Example: capsfusion db upgrade
    """
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.roles import grant_roles

    with Working(stderr) as working, open_warehouse(load_settings(), migrate=True) as warehouse:
        # Grant the roles' rights even if there was no migration, because a role may lack a right.
        with warehouse.engine.begin() as connection:
            grant_roles(connection)
        working.say(f"{warehouse.url.render_as_string()} is up to date")
