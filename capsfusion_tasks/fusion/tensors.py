"""Reads a weight file (.safetensors or .bin): first the names and shapes of all tensors, then one tensor at a time."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.weight_files import check_whole, refuse_misfit, unreadable

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
_IGNORED = "rotary_emb.inv_freq"  # a table in old checkpoints; the engines compute this table and do not read it
# The dtypes that are accepted, by their names in safetensors and in torch. Integers and one-byte floats are refused,
# because they are useless without the scales of their quantisation.
_DTYPES = {"F64", "F32", "F16", "BF16"}
_TORCH_DTYPES = {torch.float64, torch.float32, torch.float16, torch.bfloat16}
# The message for a .bin file that contains more than tensors. It replaces torch's message, which explains how to run
# the code in the file.
NO_TENSORS = "it is damaged, or it is a pickle that contains more than tensors and could run code"


@dataclass(frozen=True)
class TensorFile:
    """An open weight file. ``read`` returns a tensor on the host, memory-mapped if possible."""

    path: Path
    shapes: dict[str, list[int]]
    read: Callable[[str], Tensor]


def open_tensors(file: Path) -> TensorFile:
    """Open a weight file. Raises InputError if ``file`` is not a weight file or has quantised tensors."""
    check_whole(file)
    try:
        return _safetensors(file) if file.suffix == ".safetensors" else _pickled(file)
    except pickle.UnpicklingError as error:
        raise unreadable(file, NO_TENSORS) from error
    except LookupError as error:  # a KeyError's text is only the missing key, which would not help users
        raise unreadable(file, NO_TENSORS) from error
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, TypeError) as error:
        raise unreadable(file, error) from error


def check_names(folder: Path, files: Iterable[Path], shapes: Mapping[str, list[int]], *, tied: bool) -> None:
    """Raise InputError if ``files`` lack a tensor of the model, or have an unknown, duplicate or misshapen tensor.

    ``shapes`` are the shapes of the model's tensors, by name. If the output head and the embedding are ``tied`` (one
    tensor for both), one of the two is enough.
    """
    found: set[str] = set()
    unknown, other = [], []
    for file in files:
        for name, shape in open_tensors(file).shapes.items():
            known = known_name(name, shapes)
            if name.endswith(_IGNORED):
                continue
            if known is None:
                unknown.append(name)
                continue
            if known in found:
                other.append(f"{known} is stored twice")
            if shape != shapes[known]:
                other.append(f"{name} has shape {shape}, config.json says {shapes[known]}")
            found.add(known)
    if tied and found & {EMBEDDING, HEAD}:
        found |= {EMBEDDING, HEAD}
    refuse_misfit(folder, missing=shapes.keys() - found, unknown=unknown, other=other)


def known_name(name: str, known: Container[str]) -> str | None:
    """The name in ``known`` that means the same tensor as ``name``. None if there is no such name.

    ``name`` may have the prefix ``model.`` once more or once less than the name in ``known``.
    """
    for other in (name, name.removeprefix("model."), f"model.{name}"):
        if other in known:
            return other
    return None


def is_finite(numbers: Tensor) -> Tensor:
    """Whether all ``numbers`` are finite, as a boolean on the same device. Reads each number once and copies none."""
    largest: Tensor = torch.linalg.vector_norm(numbers, float("inf"))  # the norm is NaN if a number is NaN
    return largest.isfinite()


def refuse_not_finite(folder: Path, finite: Mapping[str, Tensor]) -> None:
    """Raise InputError if some of the model's tensors have NaN or infinite numbers.

    ``finite`` maps each tensor's name to a boolean on the device: whether all numbers of the tensor are finite. All
    booleans are fetched at once, so that the host waits for the device only once.
    """
    if not finite:
        return
    flags = torch.stack(list(finite.values())).tolist()
    bad = [name for name, is_finite in zip(finite, flags, strict=True) if not is_finite]
    if bad:
        raise InputError(
            f"the weights in {folder} are not finite: {len(bad)} of {len(finite)} tensors have NaN or infinite numbers,"
            f" such as {bad[0]}. The file is damaged, or training went wrong: use another checkpoint"
        )


def _safetensors(file: Path) -> TensorFile:
    handle = safe_open(file, framework="pt")
    shapes = {}
    for name in handle.keys():  # type: ignore[no-untyped-call]  # noqa: SIM118
        tensor = handle.get_slice(name)  # type: ignore[no-untyped-call]
        _refuse_dtype(file, name, tensor.get_dtype(), _DTYPES)
        shapes[name] = tensor.get_shape()
    return TensorFile(file, shapes, handle.get_tensor)


def _pickled(file: Path) -> TensorFile:
    # Use weights_only, because a pickle from a hub must not run code. Only zip files, which torch has written since
    # version 1.6, can be memory-mapped.
    weights = torch.load(file, map_location="cpu", mmap=zipfile.is_zipfile(file), weights_only=True)
    if not isinstance(weights, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    ):
        names = ", ".join(map(str, list(weights)[:5])) if isinstance(weights, dict) else type(weights).__name__
        raise InputError(f"{file} holds more than a model's weights ({names}): save only the model's state_dict")
    for name, tensor in weights.items():
        _refuse_dtype(file, name, tensor.dtype, _TORCH_DTYPES)
    return TensorFile(file, {name: list(tensor.shape) for name, tensor in weights.items()}, weights.__getitem__)


def _refuse_dtype(file: Path, name: str, dtype: object, allowed: Collection[object]) -> None:
    if dtype not in allowed:
        raise InputError(
            f"{file} is quantised: {name} has dtype {dtype}. Give the model in bfloat16, float16 or float32"
        )
