"""``capsfusion …``: the command line. Thin: each command checks its arguments and calls one function."""

from __future__ import annotations

import os
import signal
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich.console import Console

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Interval, load_settings

app = typer.Typer(
    help="Fuse raw and synthetic web image captions into good training captions.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
db = typer.Typer(help="The warehouse's schema.", no_args_is_help=True)
app.add_typer(db, name="db")
stderr = Console(stderr=True, soft_wrap=True)

Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub id (BAAI/CapsFus-LLaMA). Default: CAPSFUSION_MODEL, else the demo model."),
]
Beams = Annotated[int | None, typer.Option(help="Beams of the search; 1 is greedy. Default: 3.", min=1, max=16)]


@app.command()
def fuse(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help=".json, .jsonl or .parquet with laion_2b and laion_coco.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The same rows in the same order, with capsfusion added.")
    ],
    model: Model = None,
    num_beams: Beams = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Longest caption. Default: 80.", min=1)] = None,
    engine: Annotated[
        Literal["native", "transformers"] | None,
        typer.Option(help="native: LLaMA models, fast; transformers: the reference. Default: native."),
    ] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"] | None,
        typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU. Only float32 gives the same bytes each time."),
    ] = None,
    nproc_per_node: Annotated[
        str | None, typer.Option(help="Ranks that torchrun starts. auto: one per GPU, or one.", metavar="auto|N")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows that a rank fuses together. Default: what fits in a GPU's memory, 32 on a CPU.", min=1),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Take over the chunks in OUT.parts that an earlier try finished.")
    ] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it is there.")] = False,
    stats: Annotated[
        Path | None, typer.Option(help="Write what it took to this file: rows, tokens, device seconds, as JSON.")
    ] = None,
) -> None:
    """Fuse one file: the paper's script, with every row read, in order, resumable after a crash.

    Example: capsfusion fuse pairs.jsonl fused.jsonl --model BAAI/CapsFus-LLaMA
    """
    import json

    from capsfusion_tasks.fusion.files import fuse_file

    settings = load_settings(
        model=model,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        engine=engine,
        dtype=dtype,
        nproc_per_node=nproc_per_node,
        batch_size=batch_size,
    )
    result = fuse_file(source, target, settings, resume=resume, overwrite=overwrite, on_line=_progress_line)
    figures = result.figures.as_dict()
    if stats is not None:
        stats.write_text(json.dumps({**figures, "failed": len(result.failed)}) + "\n")
    rate = f", {figures['rows_per_second']:.1f} rows/s per device" if figures["rows_per_second"] else ""
    stderr.print(f"{target}: {figures['rows']} rows{rate}", highlight=False)
    for row, reason in result.failed[:5]:
        stderr.print(f"row {row + 1} has no capsfusion: {reason}", markup=False, style="yellow")
    if len(result.failed) > 5:
        stderr.print(f"… and {len(result.failed) - 5} more rows have none", style="yellow")


@app.command()
def validate(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help=".json, .jsonl or .parquet with both sources and a caption.")
    ],
    column: Annotated[str, typer.Option(help="The column that holds the caption.")] = "capsfusion",
    out: Annotated[
        Path | None, typer.Option(help="Write every row with its reasons, flags and scores to this .parquet.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page to look at to this .html: reasons, scores, examples in colour.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples of each reason on that page.", min=1)] = 8,
) -> None:
    """Tell which captions of a file would be rejected, and why. Flags say what to look at and reject nothing.

    Example: capsfusion validate fused.jsonl --out verdicts.parquet --report verdicts.html
    """
    from capsfusion_tasks.storage import Storage
    from capsfusion_tasks.terminal import RowCount, print_verdicts
    from capsfusion_tasks.validation.files import validate_file
    from capsfusion_tasks.validation.page import report_page

    with RowCount(stderr) as count:
        found = validate_file(
            source, column, out, settings=load_settings().rules, examples=examples, on_rows=count.reached
        )
    if report:
        with Storage(str(report.absolute().parent)).publish(report.name) as stream:
            stream.write(report_page(source.name, found).encode("utf-8", "replace"))
    print_verdicts(source.name, found.tally)


@app.command()
def run(
    start: Annotated[datetime, typer.Option(help="Shards that arrived at or after this time (UTC).")],
    end: Annotated[datetime, typer.Option(help="… and before this one.")],
    laion_2b: Annotated[
        str | None, typer.Option(help="Where LAION-2B shards arrive: a folder or URI. Default: CAPSFUSION_LAION2B.")
    ] = None,
    laion_coco: Annotated[
        str | None, typer.Option(help="Where LAION-COCO shards arrive, likewise. Default: CAPSFUSION_LAION_COCO.")
    ] = None,
    model: Model = None,
    num_beams: Beams = None,
    limit: Annotated[int | None, typer.Option(help="Fuse at most so many pairs.", min=1)] = None,
    existing: Annotated[
        Literal["skip", "replace"], typer.Option(help="What to do with pairs that this model has fused already.")
    ] = "skip",
    max_gpu_hours: Annotated[
        float | None, typer.Option(help="Stop before fusing where more GPU hours are estimated.", min=0)
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="… where a higher cost is, at CAPSFUSION_GPU_HOUR_PRICE.", min=0)
    ] = None,
    accept_rejections: Annotated[
        bool, typer.Option("--accept-rejections", help="Load units however many of their captions are rejected.")
    ] = False,
) -> None:
    """Run all stages over the shards of a time range, without Airflow. Run it again to resume.

    Example: capsfusion run --start 2026-11-10 --end 2026-11-13 --laion-2b DIR/laion-2b --laion-coco DIR/laion-coco
    """
    from capsfusion_tasks.estimate import Budget
    from capsfusion_tasks.pipeline import run_pipeline

    settings = load_settings(laion2b=laion_2b, laion_coco=laion_coco, model=model, num_beams=num_beams)
    interval = Interval(start=start, end=end)
    budget = Budget(max_gpu_hours, max_cost)
    report = run_pipeline(
        settings,
        interval,
        limit=limit,
        existing=existing,
        budget=budget,
        accept_rejections=accept_rejections,
        say=_progress_line,
    )
    Console().print(report["text"], highlight=False, markup=False)
    if failures := report["failures"]:
        raise InputError(f"{len(failures)} shards or units failed, all others are done; the first: {failures[0]}")


@app.command()
def plan(
    start: Annotated[
        datetime | None, typer.Option(help="Of data intervals from this time (UTC) on. Default: of all.")
    ] = None,
    end: Annotated[datetime | None, typer.Option(help="… that end at this one or before.")] = None,
    gpus: Annotated[int, typer.Option(help="Devices that work in parallel, over all nodes.", min=1)] = 1,
    price_per_gpu_hour: Annotated[
        float | None, typer.Option(help="Default: CAPSFUSION_GPU_HOUR_PRICE; without either, no cost.", min=0)
    ] = None,
    rows_per_second: Annotated[
        float | None,
        typer.Option(help="Of one device; the default is what earlier units of the same model and settings did."),
    ] = None,
    model: Model = None,
    num_beams: Beams = None,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
) -> None:
    """Estimate what fusing all that is waiting takes: pairs, tokens, GPU hours, cost, time. Plans and fuses nothing.

    Waiting are work units that are planned, and pairs that are paired and in no unit yet. Shards that are not paired
    are told, not estimated. A GPU hour is an hour of one GPU, or of one rank on a CPU.

    Example: capsfusion plan --start 2026-11-10 --end 2026-11-13 --gpus 8 --price-per-gpu-hour 2.50
    """
    import json

    from capsfusion_tasks.stages import estimate

    settings = load_settings(model=model, num_beams=num_beams, gpu_hour_price=price_per_gpu_hour)
    if rows_per_second is not None and rows_per_second <= 0:
        raise InputError(f"--rows-per-second is {rows_per_second:g}: give what one device does, above 0")
    within = Interval(start=start or datetime.min, end=end or datetime.max) if start or end else None
    found = estimate(settings, within, gpus=gpus, rows_per_second=rows_per_second)
    if output_format == "json":
        print(json.dumps(found.as_dict()))
    else:
        Console().print(found.text, highlight=False, markup=False, soft_wrap=True)


@app.command()
def status() -> None:
    """Show shards, work units, throughput and rejections: what is done, waiting, failed."""
    from capsfusion_tasks.report import report_all
    from capsfusion_tasks.warehouse.connection import open_warehouse

    with open_warehouse(load_settings()) as warehouse, warehouse.engine.connect() as connection:
        Console().print(report_all(connection).text, highlight=False, markup=False)


@app.command()
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

    with open_warehouse(load_settings()) as warehouse:
        if statement is None:
            _interactive(*psql_command(warehouse))
        else:
            print_rows(execute_sql(warehouse, statement), output_format)


@app.command()
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
    from capsfusion_tasks.export import export_captions
    from capsfusion_tasks.storage import Storage
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
    with open_warehouse(load_settings()) as warehouse:
        manifest = export_captions(
            warehouse,
            Storage(target),
            selection,
            rows_per_file=rows_per_file,
            overwrite="always" if overwrite else "never",
            say=_progress_line,
        )
    _progress_line(
        f"{target}: {manifest.rows} captions in {len(manifest.files)} files, as of"
        f" {manifest.snapshot.at:%Y-%m-%d %H:%M:%S} UTC"
    )


@app.command("sample-data")
def sample_data(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Gets laion-2b/ and laion-coco/; must be new or the same sample.")
    ],
    rows_per_day: Annotated[int, typer.Option(help="Pairs of a day, about.", min=10)] = 250,
    days: Annotated[int, typer.Option(help="Arrival days.", min=1)] = 3,
    first_day: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The first of them.")] = datetime(
        2026, 11, 10
    ),
    seed: Annotated[int, typer.Option(help="The same seed gives the same files.")] = 0,
    copies: Annotated[int, typer.Option(help="All of it so many times, as other images.", min=1)] = 1,
    unmatched: Annotated[
        int, typer.Option(help="Times that LAION-2B has its rows once more, as images that LAION-COCO lacks.", min=0)
    ] = 0,
) -> None:
    """Write shards in LAION's schemas with real-world dirt in them, and say what a run must find there.

    Ten million LAION-2B rows: capsfusion sample-data DIR --rows-per-day 10000 --days 1 --copies 190 --unmatched 3
    """
    from capsfusion_tasks.demo.sample_data import write_sample_data

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


@db.command("upgrade")
def db_upgrade() -> None:
    """Create the warehouse's tables, or bring them up to date."""
    from capsfusion_tasks.warehouse.connection import open_warehouse

    with open_warehouse(load_settings(), migrate=True) as warehouse:
        stderr.print(f"{warehouse.url.render_as_string()} is up to date", highlight=False, markup=False)


@app.command()
def demo(
    airflow: Annotated[
        str | None, typer.Option(metavar="URL", help="One that is running already. Default: one of its own.")
    ] = None,
) -> None:
    """Show it all: sample shards of three days, an Airflow backfill over them, fused captions in PostgreSQL."""
    if airflow is not None:
        from capsfusion_tasks.demo.cluster_demo import run_demo_on

        raise typer.Exit(run_demo_on(load_settings(), airflow))
    from capsfusion_tasks.demo.airflow_demo import run_demo

    raise typer.Exit(run_demo(load_settings()))


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port of the UI.", min=1, max=65535)] = 8080,
) -> None:
    """Keep Airflow and the embedded warehouse running with their UI, until Ctrl-C."""
    from capsfusion_tasks.demo.airflow_demo import up as keep_up

    raise typer.Exit(keep_up(load_settings(), port=port))


def _progress_line(line: str) -> None:
    stderr.print(line, markup=False, highlight=False)


def _interactive(argv: list[str], env: dict[str, str]) -> None:
    import subprocess

    # Not exec: the embedded server runs as long as this process holds it.
    raise typer.Exit(subprocess.run(argv, env={**os.environ, **env}, check=False).returncode)


def _exit_on_signal(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Exit code 0: done. 2 and one line: the input or the configuration is at fault. 1: something else failed."""
    from capsfusion_tasks.fusion.launcher import TorchrunFailed

    # So that what is open is closed: torchrun is told to end, the embedded server stops.
    signal.signal(signal.SIGTERM, _exit_on_signal)
    try:
        app()
    except (InputError, NotReadyError) as error:
        stderr.print(f"capsfusion: error: {error}", markup=False, highlight=False, style="red")
        sys.exit(2)
    except TorchrunFailed as error:
        stderr.print(f"capsfusion: {error}", markup=False, highlight=False, style="red")
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
