"""Weights from a Hugging Face checkpoint, .safetensors or .bin shards, one tensor in host memory at a time."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.model_files import NO_TENSORS, weight_files
from capsfusion_tasks.fusion.native.config import llama_config
from capsfusion_tasks.fusion.native.model import Llama, Place

# Buffers that old checkpoints carry and every reader computes by itself.
_IGNORED = ("rotary_emb.inv_freq",)


def load_llama(folder: Path, device: torch.device, dtype: torch.dtype) -> Llama:
    """The checkpoint in ``folder``. Raises InputError where it is not a LLaMA, or not whole."""
    model = Llama(llama_config(folder), device, dtype)
    load_weights(folder, model.parameters())
    return model


@torch.no_grad()
def load_weights(folder: Path, places: Mapping[str, Place]) -> None:
    """Copy each of the checkpoint's tensors into its place, on the place's device and in its dtype.

    Files are mapped, not read: with several ranks on a node the pages are shared, and a rank's own memory holds no
    second copy. Raises InputError naming the tensors that are missing, unknown or of another shape.
    """
    missing = dict(places)
    ignored = _IGNORED if "lm_head.weight" in places else (*_IGNORED, "lm_head.weight")  # tied, and stored all the same
    problems = []
    for file in weight_files(folder):
        for name, tensor in _tensors(file):
            if name.endswith(ignored):
                continue
            place = missing.pop(name, None)
            if place is None:
                problems.append(f"unknown tensor {name}")
            elif place.shape != tensor.shape:
                problems.append(f"{name} has shape {list(tensor.shape)}, config.json says {list(place.shape)}")
            else:
                place.copy_(tensor)
    problems += [f"{name} is missing" for name in missing]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise InputError(f"the weights in {folder} do not fit its config.json: {'; '.join(problems[:5])}{more}")


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        if file.suffix == ".safetensors":
            handle = safe_open(file, framework="pt")
            names = handle.keys()  # type: ignore[no-untyped-call]
        else:
            # weights_only: a pickle from a hub must not run code.
            weights = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(f"{file} cannot be read as weights: {NO_TENSORS}. Download it again") from error
    except (SafetensorError, OSError, RuntimeError, EOFError) as error:
        raise InputError(f"{file} cannot be read as weights: {error}. Download it again") from error
    if file.suffix == ".safetensors":
        for name in names:
            yield name, handle.get_tensor(name)  # type: ignore[no-untyped-call]
    else:
        yield from weights.items()
