"""Commands without Airflow: run and replay (like the DAGs capsfusion and capsfusion_replay), and plan (estimates)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import typer
from rich.console import Console

from capsfusion_tasks.cli.common import (
    Beams,
    Dtype,
    Existing,
    Limit,
    MaxCost,
    MaxGpuHours,
    MaxNewTokens,
    Model,
    PromptFile,
    not_empty,
    print_default_model,
    progress_line,
    settings_to_read,
    stderr,
    time_option,
)
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.settings import load_settings


def run(
    start: Annotated[datetime, time_option("Fuse shards that arrived at or after this time (UTC).")],
    end: Annotated[datetime, time_option("Fuse shards that arrived before this time (UTC).")],
    laion_2b: Annotated[
        str | None,
        typer.Option(
            parser=not_empty,
            metavar="TEXT",
            help="Folder or address of LAION-2B shards. Default: CAPSFUSION_LAION2B.",
        ),
    ] = None,
    laion_coco: Annotated[
        str | None,
        typer.Option(
            parser=not_empty,
            metavar="TEXT",
            help="Folder or address of LAION-COCO shards. Default: CAPSFUSION_LAION_COCO.",
        ),
    ] = None,
    model: Model = None,
    prompt: PromptFile = None,
    num_beams: Beams = None,
    limit: Limit = None,
    existing: Existing = "skip",
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    accept_rejections: Annotated[
        bool,
        typer.Option(
            "--accept-rejections",
            help="Load units (batches of pairs) even if too many of their captions are rejected.",
        ),
    ] = False,
    relist: Annotated[
        bool,
        typer.Option(
            "--relist",
            help="List the shards of LAION-2B and LAION-COCO again, and add new shards. By default, the list of shards"
            " is fixed once the time range is over.",
        ),
    ] = False,
    replan: Annotated[
        bool,
        typer.Option(
            "--replan",
            help="Discard unfinished units (batches of pairs) that were planned before a setting for pulling, pairing"
            " or image results (CAPSFUSION_IMAGE_RESULTS) was changed, and plan their pairs again.",
        ),
    ] = False,
) -> None:
    """Run all stages over the shards of a time range, without Airflow. Repeat the command to resume.

    Example: capsfusion run --start 2026-11-10 --end 2026-11-13 --laion-2b DIR/laion-2b --laion-coco DIR/laion-coco
    """
    from capsfusion_tasks.planning.estimate import Budget
    from capsfusion_tasks.tasks.local_run import run_pipeline
    from capsfusion_tasks.terminal import Working, print_text

    settings = load_settings(laion2b=laion_2b, laion_coco=laion_coco, model=model, prompt=prompt, num_beams=num_beams)
    print_default_model(model, settings)
    interval = Interval(start=start, end=end)
    budget = Budget(max_gpu_hours, max_cost)
    with Working(stderr) as working:
        report = run_pipeline(
            settings,
            interval,
            limit=limit,
            existing=existing,
            budget=budget,
            accept_rejections=accept_rejections,
            relist=relist,
            replan=replan,
            say=working.say,
        )
    print_text(report["text"])
    if not (report["found"] or {}).get("pairs") and any(side["rows"] for side in report["sides"].values()):
        progress_line(
            "no pair was found: no URL with the same raw caption is in both sources yet. If you expected pairs, see"
            " CAPSFUSION_JOIN_ON"
        )
    if failures := report["failures"]:
        failed = NotReadyError if report["may_pass"] else InputError
        raise failed(f"{len(failures)} shards or units failed, all others are done. The first error: {failures[0]}")


def replay(
    reason: Annotated[
        list[str] | None,
        typer.Option(
            help="Replay captions that were rejected for this reason. Repeat the option to give more reasons. Default:"
            " any reason."
        ),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option(
            parser=not_empty,
            metavar="ID",
            help="Replay captions of this fusion_id, which stands for a model and its settings. Default: the fusion_id"
            " of the settings in the environment.",
        ),
    ] = None,
    start: Annotated[datetime | None, time_option("Replay captions loaded at or after this time (UTC).")] = None,
    end: Annotated[datetime | None, time_option("Replay captions loaded before this time (UTC).")] = None,
    model: Model = None,
    prompt: PromptFile = None,
    num_beams: Beams = None,
    max_new_tokens: MaxNewTokens = None,
    dtype: Dtype = None,
    limit: Limit = None,
    existing: Existing = "skip",
    max_gpu_hours: MaxGpuHours = None,
    max_cost: MaxCost = None,
    accept_rejections: Annotated[
        bool,
        typer.Option(help="Load units (batches of pairs) even if too many of their captions are rejected again."),
    ] = True,
) -> None:
    """Fuse the pairs of rejected captions again, and load the results. Repeat the command to resume.

    With another model, prompt, number of beams, maximum length or dtype, the pairs are fused again under another
    fusion_id. With the same settings, nothing is fused: the old captions are only validated again, with the current
    thresholds.

    Example: capsfusion replay --reason truncated --reason repetition --max-new-tokens 120
    """
    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.planning.estimate import Budget
    from capsfusion_tasks.schemas import Replay
    from capsfusion_tasks.tasks.local_run import run_replay
    from capsfusion_tasks.terminal import Working, print_text
    from capsfusion_tasks.validation.rules import REASONS

    if unknown := sorted({*(reason or ())} - {*REASONS}):
        raise InputError(f"unknown reason {', '.join(unknown)}: give one of {', '.join(REASONS)}")
    settings = settings_to_read(
        model=model, prompt=prompt, num_beams=num_beams, max_new_tokens=max_new_tokens, dtype=dtype
    )
    if fusion is None:
        with Working(stderr), open_context(load_settings()) as context:
            fusion = context.decoding.fusion_id
    selection = Replay.of_selection(
        fusion_id=fusion,
        reasons=tuple(reason or ()),
        loaded_from=start,
        loaded_before=end,
        limit=limit,
    )
    with Working(stderr) as working:
        report = run_replay(
            settings,
            selection,
            existing=existing,
            budget=Budget(max_gpu_hours, max_cost),
            accept_rejections=accept_rejections,
            say=working.say,
        )
    print_text(report["text"])
    if failures := report["failures"]:
        failed = NotReadyError if report["may_pass"] else InputError
        raise failed(f"{len(failures)} units failed, all others are done. The first error: {failures[0]}")


def plan(
    start: Annotated[
        datetime | None,
        time_option("Count pairs of data intervals that start at or after this time (UTC). Default: all."),
    ] = None,
    end: Annotated[
        datetime | None, time_option("Count pairs of data intervals that end at or before this time (UTC).")
    ] = None,
    gpus: Annotated[int, typer.Option(help="Number of GPUs that fuse in parallel, on all nodes together.", min=1)] = 1,
    price_per_gpu_hour: Annotated[
        float | None,
        typer.Option(help="Price of one GPU for one hour. Default: CAPSFUSION_GPU_HOUR_PRICE.", min=0),
    ] = None,
    rows_per_second: Annotated[
        float | None,
        typer.Option(
            help="Rows that one GPU fuses per second. Default: the rate of earlier units with the same settings."
        ),
    ] = None,
    model: Model = None,
    prompt: PromptFile = None,
    num_beams: Beams = None,
    output_format: Annotated[Literal["text", "json"], typer.Option("--format", help="Output format.")] = "text",
) -> None:
    """Count the pairs that wait to be fused, and estimate their tokens, GPU hours, cost and time. Changes nothing.

    Counts the pairs in units (batches of pairs) that are not fused, and the pairs that are in no unit yet. Pairs of
    shards that are not paired yet cannot be counted: the output says how many such shards there are. One GPU hour is
    one hour of one GPU, or of one process on a CPU.

    Example: capsfusion plan --start 2026-11-10 --end 2026-11-13 --gpus 8 --price-per-gpu-hour 2.50
    """
    import json

    from capsfusion_tasks.context import open_context
    from capsfusion_tasks.planning.forecast import estimate
    from capsfusion_tasks.terminal import Working

    settings = settings_to_read(model=model, prompt=prompt, num_beams=num_beams, gpu_hour_price=price_per_gpu_hour)
    if rows_per_second is not None and rows_per_second <= 0:
        raise InputError(f"--rows-per-second is {rows_per_second:g}: give a number above 0")
    within = Interval(start=start or datetime.min, end=end or datetime.max) if start or end else None
    with Working(stderr), open_context(settings) as context:
        found = estimate(context, within, gpus=gpus, rows_per_second=rows_per_second)
        model_line = f"model: {context.decoding.description}"
    if output_format == "json":
        print(json.dumps(found.as_dict()))
    else:
        Console().print(f"{found.text}\n{model_line}", highlight=False, markup=False, soft_wrap=True)
