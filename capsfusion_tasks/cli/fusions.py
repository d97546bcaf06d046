"""The command ``adopt``, for captions of earlier releases, which did not record all settings of a caption's fusion."""

from __future__ import annotations

from typing import Annotated

import typer

from capsfusion_tasks.cli.common import (
    Beams,
    Dtype,
    MaxNewTokens,
    Model,
    not_empty,
    progress_line,
    settings_to_read,
    stderr,
)


def adopt(
    fusion_id: Annotated[
        str,
        typer.Argument(
            parser=not_empty,
            metavar="ID",
            help="The fusion_id (it stands for a model and its settings) of captions that an earlier release made."
            " `capsfusion plan` prints it.",
        ),
    ],
    model: Model = None,
    num_beams: Beams = None,
    max_new_tokens: MaxNewTokens = None,
    dtype: Dtype = None,
) -> None:
    """Declare that captions of an earlier release were made with the current settings.

    Earlier releases did not record which dtype `auto` meant, and hashed only the beginning and the end of each model
    file. So this release cannot know whether the settings are the same, and would fuse all pairs again. If the model
    and the device have not changed, use this command, so that the pairs are not fused again.

    Example: capsfusion adopt 3f9a1c20b7de --dtype bfloat16
    """
    from capsfusion_tasks.fusion.identity import decide
    from capsfusion_tasks.terminal import Working
    from capsfusion_tasks.warehouse import fusions
    from capsfusion_tasks.warehouse.connection import open_warehouse

    settings = settings_to_read(model=model, num_beams=num_beams, max_new_tokens=max_new_tokens, dtype=dtype)
    with Working(stderr):
        decoding = decide(settings)
        with open_warehouse(settings) as warehouse, warehouse.engine.begin() as connection:
            fusions.adopt(connection, fusion_id, decoding)
    progress_line(f"fusion {fusion_id} is recorded as {decoding.model} in {decoding.dtype}, {decoding.num_beams} beams")
