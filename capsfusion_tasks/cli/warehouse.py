"""Commands on the warehouse: status, sql, export, db upgrade."""

from __future__ import annotations

import os
from datetime import datetime
from typing import Annotated, Literal

import typer

from capsfusion_tasks.cli.common import progress_line, settings_to_read, stderr
from capsfusion_tasks.settings import load_settings


def status() -> None:
    """Show shards, work units, throughput and rejections: what is done, waiting, failed."""
    from capsfusion_tasks.tasks.report import report_all
    from capsfusion_tasks.terminal import print_text
    from capsfusion_tasks.warehouse.connection import open_warehouse

    with open_warehouse(settings_to_read()) as warehouse, warehouse.engine.connect() as connection:
        print_text(report_all(connection).text)


def sql(
    statement: Annotated[str | None, typer.Argument(help="A query; without one, an interactive psql starts.")] = None,
    output_format: Annotated[
        Literal["table", "csv", "json", "parquet"], typer.Option("--format", help="How to print the rows.")
    ] = "table",
) -> None:
    """Query the warehouse, read-only. Its schema is searched, so plain table names do.

    Example: capsfusion sql "select laion_2b, laion_coco, capsfusion from fused_captions limit 5"
    """
    from capsfusion_tasks.terminal import print_rows
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.psql import psql_command
    from capsfusion_tasks.warehouse.sql import execute_sql

    with open_warehouse(settings_to_read()) as warehouse:
        if statement is None:
            _interactive(*psql_command(warehouse))
        else:
            print_rows(execute_sql(warehouse, statement), output_format)


def _interactive(argv: list[str], env: dict[str, str]) -> None:
    import subprocess

    # Not exec: the embedded server runs as long as this process holds it.
    raise typer.Exit(subprocess.run(argv, env={**os.environ, **env}, check=False).returncode)


def export(
    target: Annotated[str, typer.Argument(metavar="DIR", help="A new or empty folder, or s3://bucket/prefix.")],
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="all|NAME,…",
            help="Columns of fused_captions besides image_url, laion_2b, laion_coco, capsfusion; all: every one.",
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Captions of this fusion_id. Default: of each pair the newest caption."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="SQL", help="A condition on the columns of fused_captions, as in a query.")
    ] = None,
    start: Annotated[datetime | None, typer.Option(help="Captions loaded at or after this time (UTC).")] = None,
    end: Annotated[datetime | None, typer.Option(help="… and before this one.")] = None,
    limit: Annotated[
        int | None, typer.Option(help="So many captions at most: the first by pair_id, as good as a sample.", min=1)
    ] = None,
    rows_per_file: Annotated[int, typer.Option(help="Rows of a file; the last has fewer.", min=1)] = 1_000_000,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew where DIR has an export, finished or not.")
    ] = False,
) -> None:
    """Write accepted captions as Parquet files, in CapsFusion-120M's columns, with a manifest. Run it again to resume.

    Sorted by pair_id, as part-00000.parquet, part-00001.parquet, …; _manifest.json comes last and has the query, counts
    and checksums. What the warehouse had when the export began is exported, however often it is interrupted.

    Example: capsfusion export captions --where "raw_recall > 0.8 and punsafe < 0.1" --columns similarity,fusion_id
    """
    from capsfusion_tasks.staging.storage import Storage
    from capsfusion_tasks.tasks.export import export_captions
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.export import Selection, named_columns

    selection = Selection(
        columns=named_columns(columns),
        fusion_id=fusion,
        loaded_from=start,
        loaded_before=end,
        where=where,
        limit=limit,
    )
    with open_warehouse(settings_to_read()) as warehouse:
        manifest = export_captions(
            warehouse,
            Storage(target),
            selection,
            rows_per_file=rows_per_file,
            overwrite="always" if overwrite else "never",
            say=progress_line,
        )
    progress_line(
        f"{target}: {manifest.rows} captions in {len(manifest.files)} files, as of"
        f" {manifest.snapshot.at:%Y-%m-%d %H:%M:%S} UTC"
    )


def db_upgrade() -> None:
    """Create the warehouse's tables and roles, or bring them up to date."""
    from capsfusion_tasks.warehouse.connection import open_warehouse
    from capsfusion_tasks.warehouse.roles import grant_roles

    with open_warehouse(load_settings(), migrate=True) as warehouse:
        with warehouse.engine.begin() as connection:  # also where the tables need nothing: to mend what is missing
            grant_roles(connection)
        stderr.print(f"{warehouse.url.render_as_string()} is up to date", highlight=False, markup=False)
