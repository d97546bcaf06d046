"""What the commands share: options, and where they say how far they are."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from rich.console import Console

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import printable
from capsfusion_tasks.settings import Settings

stderr = Console(stderr=True, soft_wrap=True)

Model = Annotated[
    str | None,
    typer.Option(help="Folder or hub id (BAAI/CapsFus-LLaMA). Default: CAPSFUSION_MODEL, else the demo model."),
]
Beams = Annotated[int | None, typer.Option(help="Beams of the search; 1 is greedy. Default: 3.", min=1, max=16)]
Limit = Annotated[int | None, typer.Option(help="Fuse at most so many pairs.", min=1)]
MaxGpuHours = Annotated[
    float | None, typer.Option(help="Stop before fusing where more GPU hours are estimated.", min=0)
]
MaxCost = Annotated[float | None, typer.Option(help="… where a higher cost is, at CAPSFUSION_GPU_HOUR_PRICE.", min=0)]
MaxNewTokens = Annotated[int | None, typer.Option(help="Longest caption. Default: 80.", min=1)]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float8"] | None,
    typer.Option(help="auto: bfloat16 on a GPU, float32 on a CPU. Only float32 gives the same bytes each time."),
]


def print_default_model(model: str | None, settings: Settings) -> None:
    """Without ``--model``, say in one line which model fuses, and that the bundled one is a toy."""
    if model is None and settings.model == str(BUNDLED_MODEL):
        progress_line("model: the bundled demo model, a toy. For real captions: --model BAAI/CapsFus-LLaMA")
    elif model is None:
        progress_line(f"model: {settings.model} (CAPSFUSION_MODEL)")


def progress_line(line: str) -> None:
    stderr.print(printable(line), markup=False, highlight=False)
