"""Finds the weight files of a model folder: the files that transformers would read. Does not import torch.

The folder may have other files (``consolidated.safetensors``, shards of an older save, an adapter). They are not read.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.json_files import read_object, refuse_pointer

# The file names of a model's weights: one file, or the index of several files. As in transformers, the first name that
# exists is used. Safetensors come first, because pickles can contain code.
_LAYOUTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# Patterns of the weight files to download from the hub. They omit the indexes: all .json files are downloaded anyway.
SAFETENSORS, PICKLES = "model*.safetensors", "pytorch_model*.bin"
ADAPTER_CONFIG = "adapter_config.json"
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
# Endings of tensor names that only quantised checkpoints have: GPTQ, AWQ, fp8, bitsandbytes.
_QUANTISED = (".qweight", ".qzeros", ".g_idx", ".scales", "weight_scale", "weight_scale_inv", ".SCB", ".absmax")
_SHOWN = 5
_ZIP = b"PK\x03\x04"  # the first bytes of .bin files that torch has written since version 1.6
_LONGEST_HEADER = 100_000_000  # in bytes; the library safetensors has the same limit


def weight_files(folder: Path) -> list[Path]:
    """The weight files of ``folder``. Raises InputError if there are none, or if the index names a missing file."""
    for single, index in _LAYOUTS:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            return _files_of_index(folder / index)
    refuse_adapter(folder)
    for name in (name for layout in _LAYOUTS for name in layout):
        if (folder / name).is_symlink():  # for example a link to a deleted file of huggingface_hub's cache
            raise InputError(f"{folder / name} is a dead link: restore its target, or download the model again")
    found = ", ".join(_other_files(folder, [])) or "no such file"
    raise InputError(
        f"{folder} has no weights: expected model.safetensors or pytorch_model.bin, or an index (…index.json) beside"
        f" its shards; found {found}"
    )


def has_safetensors(folder: Path) -> bool:
    """Whether ``folder`` has weights in safetensors, or their index. If so, .bin files are not read."""
    return any((folder / name).is_file() for name in _LAYOUTS[0])


def refuse_adapter(folder: Path) -> None:
    """Raise InputError if the folder contains a LoRA adapter. Call this only if the model's own files are missing."""
    if (folder / ADAPTER_CONFIG).is_file():
        raise InputError(
            f"{folder} contains only a LoRA adapter, without its base model: merge both"
            " (peft: merge_and_unload, save_pretrained) and give the merged folder"
        )


def unread_files(folder: Path, read: Iterable[Path]) -> list[str]:
    """Names of the files that look like weight files but are not in ``read``."""
    return _other_files(folder, [file.name for file in read])


def check_whole(file: Path) -> None:
    """Raise InputError if ``file`` cannot be opened, is empty, is a Git LFS pointer, or is cut short.

    Reads only the header of a .safetensors file, and only the start and the end of other files.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
            refuse_pointer(file, start)
            if not start:
                raise InputError(f"{file} is empty: download it again")
            stream.seek(0)
            if file.suffix == ".safetensors":
                _check_safetensors(file, stream)
            elif start.startswith(_ZIP):
                stream.seek(-1, os.SEEK_END)
                # Raises an OSError if the disk fails. is_zipfile would hide this error, and return False.
                stream.read(1)
                if not zipfile.is_zipfile(stream):
                    raise unreadable(file, "it is cut short: its last part, the list of its contents, is missing")
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error


def _check_safetensors(file: Path, stream: BinaryIO) -> None:
    """Raise InputError if the file does not have as many bytes as its header says."""
    size = os.fstat(stream.fileno()).st_size
    header_size = int.from_bytes(stream.read(8), "little")
    if header_size > _LONGEST_HEADER:
        raise unreadable(file, "it does not begin with a header of safetensors")
    header = stream.read(header_size)
    expected = 8 + header_size
    if len(header) == header_size:
        try:
            tensors = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
            expected += max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
        except (ValueError, TypeError, AttributeError, ArithmeticError, LookupError, RecursionError) as error:
            raise unreadable(file, "its header is damaged") from error
    if size != expected:
        wrong = "it is cut short" if size < expected else "it is damaged"
        raise unreadable(file, f"{wrong}: it has {size:,} bytes, but according to its header {expected:,}")


def unreadable(file: Path, reason: object) -> InputError:
    return InputError(f"{file} cannot be read as weights: {str(reason) or type(reason).__name__}. Download it again")


def refuse_misfit(folder: Path, *, missing: Iterable[str], unknown: Iterable[str], other: Iterable[str] = ()) -> None:
    """Raise InputError if a checkpoint's tensors do not fit its model.

    ``missing`` are names of the model's tensors that the checkpoint lacks. ``unknown`` are names of the checkpoint's
    tensors that the model lacks. ``other`` are sentences about further problems.
    """
    missing, unknown = sorted(missing), sorted(unknown)
    problems = [*other, *(f"unknown tensor {name}" for name in unknown), *(f"{name} is missing" for name in missing)]
    if not problems:
        return
    more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    hint = ""
    if any(name.endswith(_QUANTISED) for name in unknown):
        hint = ". The weights are quantised: give the model in bfloat16, float16 or float32"
    elif prefix := _surplus_prefix(unknown, missing):
        hint = f". The names of the file's tensors begin with {prefix!r}: save the weights without this prefix"
    raise InputError(f"the weights in {folder} do not fit its config.json: {'; '.join(problems[:_SHOWN])}{more}{hint}")


def _files_of_index(index: Path) -> list[Path]:
    names = read_object(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise InputError(f"{index} has no weight_map of tensors and files: download it again")
    files = [index.with_name(name) for name in sorted(set(names.values())) if _is_plain(name)]
    if strange := sorted(name for name in set(names.values()) if not _is_plain(name)):
        raise InputError(
            f"{index} names {strange[0]!r}, which is not a weight file in its folder: download the model again"
        )
    if missing := [file.name for file in files if not file.is_file()]:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise InputError(
            f"{index} names files that are not there: {', '.join(missing[:_SHOWN])}{more}. Download the model again"
        )
    return files


def _is_plain(name: str) -> bool:
    return Path(name).name == name and "\0" not in name and name.endswith((".safetensors", ".bin"))


def _other_files(folder: Path, read: list[str]) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.suffix in _SUFFIXES and file.name not in read)


def _surplus_prefix(unknown: list[str], missing: list[str]) -> str:
    """The prefix that training code has added to all ``unknown`` names, for example "module." or "base_model.model.".

    Empty if there is no such prefix. The first unknown name is this prefix plus a ``missing`` name.
    """
    for name in missing:
        if unknown and unknown[0].endswith(f".{name}"):
            prefix = unknown[0].removesuffix(name)
            return prefix if all(each.startswith(prefix) for each in unknown) else ""
    return ""
