"""Commands on files: fuse, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from capsfusion_tasks.cli.common import Beams, Dtype, MaxNewTokens, Model, progress_line, stderr
from capsfusion_tasks.errors import printable
from capsfusion_tasks.settings import load_settings


def fuse(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help=".json, .jsonl or .parquet with laion_2b and laion_coco.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="OUT", help="The same rows in the same order, with capsfusion added.")
    ],
    model: Model = None,
    num_beams: Beams = None,
    max_new_tokens: MaxNewTokens = None,
    engine: Annotated[
        Literal["native", "transformers"] | None,
        typer.Option(help="native: LLaMA models, fast; transformers: the reference. Default: native."),
    ] = None,
    dtype: Dtype = None,
    nproc_per_node: Annotated[
        str | None, typer.Option(help="Ranks that torchrun starts. auto: one per GPU, or one.", metavar="auto|N")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Rows that a rank fuses together. Default: what fits in a GPU's memory, 32 on a CPU.", min=1),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Take over the rows in OUT.parts that an earlier try finished.")] = True,
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
    result = fuse_file(source, target, settings, resume=resume, overwrite=overwrite, on_line=progress_line)
    figures = result.figures.as_dict()
    if stats is not None:
        stats.write_text(json.dumps({**figures, "failed": len(result.failed)}) + "\n")
    rate = f", {figures['rows_per_second']:.1f} rows/s per device" if figures["rows_per_second"] else ""
    progress_line(f"{target}: {figures['rows']} rows{rate}")
    for row, reason in result.failed[:5]:
        stderr.print(printable(f"row {row + 1} has no capsfusion: {reason}"), markup=False, style="yellow")
    if len(result.failed) > 5:
        stderr.print(f"… and {len(result.failed) - 5} more rows have none", style="yellow")


def validate(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help=".json, .jsonl or .parquet with both sources and a caption.")
    ],
    column: Annotated[str, typer.Option(help="The column that holds the caption.")] = "capsfusion",
    out: Annotated[
        Path | None,
        typer.Option(help="Write all columns with reasons, flags and scores to this .parquet, .jsonl, .json or .csv."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write a page to look at to this .html: rules, scores, examples in colour.")
    ] = None,
    examples: Annotated[int, typer.Option(help="Examples of each reason on that page.", min=1)] = 8,
    tried: Annotated[
        list[str] | None,
        typer.Option("--try", metavar="NAME=VALUE", help="Tell how many verdicts another threshold would change."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT and the report if they exist.")] = False,
) -> None:
    """Tell which captions of a file would be rejected, and why. Flags say what to look at and reject nothing.

    Example: capsfusion validate fused.jsonl --out verdicts.parquet --report verdicts.html
    """
    from capsfusion_tasks.storage import Storage
    from capsfusion_tasks.terminal import RowCount, print_verdicts
    from capsfusion_tasks.validation.files import tried_settings, validate_file
    from capsfusion_tasks.validation.output import FORMATS, check_output
    from capsfusion_tasks.validation.page import report_page

    rules = load_settings().rules
    trials = tried_settings(tried or (), rules)
    for path, formats in ((out, FORMATS), (report, (".html",))):
        if path:
            check_output(path, source, formats, overwrite=overwrite)
    with RowCount(stderr) as count:
        found = validate_file(
            source, column, out, settings=rules, examples=examples, trials=trials, on_rows=count.reached
        )
    if report:
        with Storage(str(report.absolute().parent)).publish(report.name) as stream:
            stream.write(report_page(source.name, found).encode("utf-8", "replace"))
    print_verdicts(source.name, found.tally)
    for trial in found.trials:
        progress_line(trial.line(found.tally.rows))
    if out:
        progress_line(f"{out}: {found.tally.rows} rows with their verdicts")
    if report:
        progress_line(f"{report}: the report")
