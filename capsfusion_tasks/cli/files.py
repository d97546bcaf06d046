"""Commands on files: fuse, validate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from capsfusion_tasks.cli.common import (
    Beams,
    Dtype,
    KeepBeams,
    MaxNewTokens,
    Model,
    PromptFile,
    local_path,
    print_default_model,
    progress_line,
    stderr,
)
from capsfusion_tasks.errors import InputError, printable
from capsfusion_tasks.settings import load_settings

RawColumn = Annotated[str, typer.Option(help="The column of the raw captions (alt texts).", metavar="NAME")]
SyntheticColumn = Annotated[str, typer.Option(help="The column of the synthetic captions.", metavar="NAME")]


def fuse(
    sources: Annotated[
        list[Path],
        typer.Argument(
            # If only one argument is given, Typer assigns it to OUT, and IN is this default, an empty list. The code
            # below then reports that IN is missing.
            default_factory=list,
            parser=local_path,
            metavar="IN",
            show_default=False,
            help="Files with raw and synthetic captions: .json, .jsonl, .ndjson, .csv or .tsv (each also with .gz), or"
            " .parquet. Or folders of such files, or glob patterns in quotes.",
        ),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            parser=local_path,
            metavar="OUT",
            help="Output file in any of the input formats. It has the rows of IN in the same order, and a new column"
            " capsfusion. If there is more than one input file, OUT is a folder.",
        ),
    ],
    raw_column: RawColumn = "laion_2b",
    synthetic_column: SyntheticColumn = "laion_coco",
    id_column: Annotated[
        str | None, typer.Option(help="Column with ids. Messages show the ids beside row numbers.", metavar="NAME")
    ] = None,
    model: Model = None,
    prompt: PromptFile = None,
    num_beams: Beams = None,
    max_new_tokens: MaxNewTokens = None,
    keep_beams: KeepBeams = None,
    engine: Annotated[
        Literal["native", "transformers"] | None,
        typer.Option(
            help="native: for LLaMA, Mistral and Qwen. transformers: for all models. Default: CAPSFUSION_ENGINE, or"
            " native."
        ),
    ] = None,
    dtype: Dtype = None,
    nproc_per_node: Annotated[
        str | None,
        typer.Option(help="Number of processes to start. auto: one per GPU, or one on the CPU.", metavar="auto|N"),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            help="Rows in a batch of each process. Default: CAPSFUSION_BATCH_SIZE, or as many as fit in GPU memory, or"
            " 32 on a CPU.",
            min=1,
        ),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Reuse the finished rows that a stopped run left in OUT.parts.")] = True,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT and the --stats file.")] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing",
            help="Skip input files whose output file exists already. Replace the --stats file of an earlier run.",
        ),
    ] = False,
    stats: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, metavar="FILE", help="Write the numbers of rows, tokens and device seconds as JSON."
        ),
    ] = None,
) -> None:
    """Fuse the pairs of captions in files. Rows keep their order and columns. Repeat the command to resume.

    Examples: capsfusion fuse pairs.jsonl fused.jsonl --model BAAI/CapsFus-LLaMA; capsfusion fuse shards/ fused/
    """
    import json
    from functools import partial

    from capsfusion_tasks.caption_files import check_writable
    from capsfusion_tasks.caption_files.inputs import inputs_and_outputs
    from capsfusion_tasks.fusion.files import fuse_files
    from capsfusion_tasks.fusion.pairs_input import PairColumns
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.validation.beams import best_that_pass

    if not sources:
        raise InputError(f"{target} is the only argument: give IN and OUT, as in capsfusion fuse {target} fused.jsonl")
    settings = load_settings(
        model=model,
        prompt=prompt,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        keep_beams=keep_beams,
        engine=engine,
        dtype=dtype,
        nproc_per_node=nproc_per_node,
        batch_size=batch_size,
    )
    if overwrite and skip_existing:
        raise InputError("--overwrite and --skip-existing cannot be combined: give one of them")
    print_default_model(model, settings)
    files = inputs_and_outputs(sources, target)
    if stats is not None:
        for each in files:
            check_writable(stats, overwrite=overwrite or skip_existing, but=each.source)
            if stats.absolute() == each.target.absolute():
                raise InputError(f"OUT and --stats are both {stats}: choose another name for one of them")
        # With --skip-existing, the statistics of an earlier run are replaced, so that the command can be repeated.
        if skip_existing and stats.exists() and not _has_stats(stats):
            raise InputError(
                f"{stats} exists already, but does not have the statistics of an earlier run, so it is not replaced:"
                " choose another name for --stats, or move that file away"
            )
    with Working(stderr) as working:
        result = fuse_files(
            files,
            target,
            settings,
            columns=PairColumns(raw_column, synthetic_column, id_column),
            resume=resume,
            existing="replace" if overwrite else "skip" if skip_existing else "refuse",
            take_beam=partial(best_that_pass, settings=settings.rules),
            on_line=working.say,
        )
    figures = result.figures.as_dict()
    if stats is not None:
        stats.write_text(json.dumps({**figures, "failed": len(result.failed)}) + "\n")
    if not result.files:
        progress_line("nothing to fuse: all output files exist")
        return
    rate = f", {figures['rows_per_second']:.1f} rows/s per device" if figures["rows_per_second"] else ""
    in_files = "" if [each.target for each in files] == [target] else f" in {result.files} files"
    progress_line(f"{target}: {figures['rows']} rows{in_files}{rate}")
    if result.rescued:
        progress_line(f"{target}: in {result.rescued} rows, another beam's caption replaces a rejected caption")
    for failed in result.failed[:5]:
        file = f"{failed.file}, " if in_files else ""
        row_id = "" if failed.row_id is None else f" ({failed.row_id})"
        line = f"{file}row {failed.row}{row_id} has no fused caption: {failed.reason}"
        stderr.print(printable(line), markup=False, style="yellow")
    if len(result.failed) > 5:
        stderr.print(f"… and {len(result.failed) - 5} more rows have no fused caption", style="yellow")


def _has_stats(file: Path) -> bool:
    """Whether ``file`` has the statistics of an earlier run, so that ``--skip-existing`` may replace the file."""
    import json

    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and {"rows", "rows_per_second", "failed"} <= found.keys()


def validate(
    source: Annotated[
        Path,
        typer.Argument(
            parser=local_path,
            metavar="IN",
            help="JSON, JSON lines, CSV or Parquet file with raw, synthetic and fused captions.",
        ),
    ],
    column: Annotated[str, typer.Option(help="The column of the captions to validate.", metavar="NAME")] = "capsfusion",
    raw_column: RawColumn = "laion_2b",
    synthetic_column: SyntheticColumn = "laion_coco",
    out: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            metavar="FILE",
            help="Write a copy of IN with rejection reasons, flags and scores, as a .parquet, .jsonl, .json or .csv"
            " file.",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            metavar="FILE",
            help="Write an .html page: what each rule rejects or flags, the scores, and example captions.",
        ),
    ] = None,
    examples: Annotated[int, typer.Option(help="Number of examples per reason or flag in the report.", min=1)] = 8,
    tried: Annotated[
        list[str] | None,
        typer.Option(
            "--try",
            metavar="NAME=VALUE",
            help="Count the verdicts that a threshold, such as max_words=60, would change.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the files of --out and --report if they exist.")
    ] = False,
) -> None:
    """Show which captions of a file would be rejected, and why. Flags mark doubtful captions and reject nothing.

    The rules expect English captions; CAPSFUSION_RULES__ENGLISH=latin or =never allows other languages.

    Example: capsfusion validate fused.jsonl --out verdicts.parquet --report verdicts.html
    """
    from capsfusion_tasks.staging.storage import Storage
    from capsfusion_tasks.terminal import RowCount, print_verdicts
    from capsfusion_tasks.validation.files import tried_settings, validate_file
    from capsfusion_tasks.validation.output import check_outputs
    from capsfusion_tasks.validation.page import report_page

    rules = load_settings().rules
    trials = tried_settings(tried or (), rules)
    check_outputs(source, out, report, overwrite=overwrite)
    with RowCount(stderr) as count:
        found = validate_file(
            source,
            column,
            out,
            raw_column=raw_column,
            synthetic_column=synthetic_column,
            settings=rules,
            examples=examples,
            trials=trials,
            on_rows=count.reached,
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
