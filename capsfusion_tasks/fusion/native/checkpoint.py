"""Loads a Hugging Face checkpoint (.safetensors or .bin) into the model, one tensor in host memory at a time."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from capsfusion_tasks.fusion.native.config import model_sizes
from capsfusion_tasks.fusion.native.float8 import Float8
from capsfusion_tasks.fusion.native.model import Llama, Place
from capsfusion_tasks.fusion.tensors import (
    EMBEDDING,
    HEAD,
    check_names,
    is_finite,
    known_name,
    open_tensors,
    refuse_not_finite,
)
from capsfusion_tasks.fusion.weight_files import unread_files, weight_files

log = logging.getLogger(__name__)


def load_llama(folder: Path, device: torch.device, dtype: torch.dtype) -> Llama:
    """Load the checkpoint in ``folder``. Raises InputError for missing tensors or an unsupported model family."""
    config, files = model_sizes(folder), weight_files(folder)
    if unread := unread_files(folder, files):
        log.info("ignoring files in %s that are not part of the model: %s", folder, ", ".join(unread))
    tied = config.tie_word_embeddings and not _has_own_head(files)
    # Check the shapes before allocating memory, because a wrong number in config.json can require any amount of memory.
    places = Llama(config, torch.device("meta"), dtype, tied=tied).parameters()
    check_names(folder, files, {name: list(place.shape) for name, place in places.items()}, tied=tied)
    model = Llama(config, device, dtype, tied=tied)
    _load_weights(folder, files, model.parameters())
    return model


def _has_own_head(files: Sequence[Path]) -> bool:
    """Whether the checkpoint stores an output head whose numbers differ from those of the embedding.

    In this case, transformers 5 uses both tensors, even if config.json says that they are tied (one tensor for both).
    So this engine uses both, too.
    """
    stored = {}
    for file in files:
        tensors = open_tensors(file)
        for name in tensors.shapes:
            if (known := known_name(name, (EMBEDDING, HEAD))) is not None:
                stored[known] = tensors.read(name)
    return len(stored) == 2 and not torch.equal(stored[EMBEDDING], stored[HEAD])


@torch.no_grad()
def _load_weights(folder: Path, files: Sequence[Path], places: Mapping[str, Place]) -> None:
    """Copy each tensor of the checkpoint to its place in the model, on the device and in the dtype of this place.

    Weight files are memory-mapped. So all ranks (processes) on a node share one copy of each file in host memory.
    Raises InputError for weights that are not finite (infinite or NaN).
    """
    finite: dict[str, Tensor] = {}
    for file in files:
        tensors = open_tensors(file)
        for name in tensors.shapes:
            if (known := known_name(name, places)) is not None:
                place = places[known]
                place.copy_(tensors.read(name))
                finite[name] = is_finite(place.scales if isinstance(place, Float8) else cast(Tensor, place))
    refuse_not_finite(folder, finite)
