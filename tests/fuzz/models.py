"""Damages model folders (damages.py), and fuses with them.

Each engine must refuse a damaged folder with InputError, or fuse with it. If only values in JSON files were changed and
both engines fuse, their captions must be the same.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import NOT_FINITE, Engine, Request, StaticRequests, complete_all
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.model_check import check_model
from capsfusion_tasks.fusion.model_files import eos_token_ids, model_folder
from capsfusion_tasks.fusion.native.checkpoint import load_llama
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine, load_model
from capsfusion_tasks.settings import load_settings
from tests.fuzz.damages import Damage

CPU = torch.device("cpu")
PAIRS = (("Vlylun Crossing ® photo", "A street with cars."), ("red car 1967", "A car."), ("x", "y"))


@cache
def sound_folder(layout: str) -> Path:
    """A tiny random LLaMA with the demo model's tokenizer, made once and deleted at the end of the process."""
    # In pytest's folder of temporary files, which is deleted even if a worker is killed.
    folder = Path(tempfile.mkdtemp(prefix="capsfusion-fuzz-model-", dir=os.environ.get("PYTEST_DEBUG_TEMPROOT")))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="100KB" if layout == "shards" else "1GB")
    shutil.copy(BUNDLED_MODEL / "tokenizer.model", folder)
    if "pickle" in layout:
        weights = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "pickle")
    return folder


# ---- damage ----


def damage(folder: Path, kind: str, *what: Any) -> None:
    if kind == "tensor":
        for file in sorted(folder.glob("*.safetensors"))[:1]:
            with suppress(SafetensorError):  # earlier damage has made the file unreadable
                if weights := load_file(file):
                    save_file(changed(weights, *what), file, metadata={"format": "pt"})
        return
    file = folder / what[0]
    if what[0] == "weights":
        file = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin"), folder / "model.safetensors"])[0]
    if not file.exists():
        return
    if kind == "remove":
        file.unlink()
    elif kind == "bytes":
        file.write_bytes(with_other_bytes(file.read_bytes(), *what[1:]))
    else:
        with suppress(ValueError, AttributeError, TypeError):  # earlier damage has made the JSON unusable
            found = json.loads(file.read_text())
            if kind == "set":
                found.update([what[1]])
            else:
                found.pop(what[1], None)
            file.write_text(json.dumps(found))


def with_other_bytes(content: bytes, place: float, kind: str, other: bytes) -> bytes:
    at = int(place * len(content))
    if kind == "cut":
        return content[:at]
    if kind == "in":
        return content[:at] + other + content[at:]
    return content[:at] + (other if kind == "byte" else b"") + content[at + len(other) :]


def changed(weights: dict[str, torch.Tensor], number: int, kind: str) -> dict[str, torch.Tensor]:
    name = sorted(weights)[number % len(weights)]
    tensor = weights[name]
    changes: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
        "out": lambda: {n: t for n, t in weights.items() if n != name},
        "twice": lambda: weights | {f"model.{name}": tensor.clone()},
        "renamed": lambda: {n + ("x" if n == name else ""): t for n, t in weights.items()},
        "prefix": lambda: {f"module.{n}": t for n, t in weights.items()},
        "NaN": lambda: weights | {name: torch.full_like(tensor.float(), float("nan"))},
        "huge": lambda: weights | {name: torch.full_like(tensor.float(), 1e38)},
        "reshaped": lambda: weights | {name: tensor.flatten().clone()},
        "int8": lambda: weights | {name: tensor.to(torch.int8)},
        "half": lambda: weights | {name: tensor.half()},
        "more": lambda: weights | {"model.layers.2.mlp.up_proj.weight": torch.zeros(24, 16)},
        "own head": lambda: weights | {"lm_head.weight": torch.ones(8192, 16)},
    }
    return changes[kind]()


# ---- checks ----


def fuse_with(found: tuple[str, list[Damage]]) -> None:
    layout, damages = found
    with tempfile.TemporaryDirectory() as name:
        folder = Path(shutil.copytree(sound_folder(layout), Path(name) / "model"))
        for kind, *what in damages:
            damage(folder, kind, *what)
        native, reference = captions(folder, "native"), captions(folder, "transformers")
    if native is not None and reference is not None and all(kind == "set" for kind, *_ in damages):
        assert native == reference


def captions(folder: Path, engine: str) -> dict[int, tuple[list[int], str]] | None:
    """Row → token ids and finish reason. None if the folder is refused. Fails if the error has several lines."""
    try:
        decide(load_settings(model=str(folder), engine=engine, home=folder.parent / "home"))
        model_folder(str(folder))
        check_model(folder, engine=engine)
        tokenizer = LlamaTokenizer(folder / "tokenizer.model")
        prompts = [prompt_tokens(tokenizer, *pair) for pair in PAIRS]
        requests = StaticRequests(Request(row, prompt) for row, prompt in enumerate(prompts))
        completions = list(complete_all(load_engine(folder, engine, tokenizer), requests))
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError("more than one line") from error
        return None
    assert {completion.finish_reason for completion in completions} <= {"stop", "length", NOT_FINITE}
    for completion in completions:
        tokenizer.decode(completion.token_ids)
    return {completion.row: (completion.token_ids, completion.finish_reason) for completion in completions}


def load_engine(folder: Path, engine: str, tokenizer: LlamaTokenizer) -> Engine:
    settings: dict[str, Any] = {"num_beams": 2, "max_new_tokens": 4, "eos_ids": eos_token_ids(folder)}
    if engine == "native":
        model = load_llama(folder, CPU, torch.float32)
        prefix = shared_prefix(tokenizer)
        return NativeEngine(model, max_prompt_tokens=MAX_PROMPT_TOKENS, prefix=prefix, batch_size=2, **settings)
    reference = load_model(folder, CPU, torch.float32)
    return TransformersEngine(reference, pad_id=tokenizer.pad_id, batch_size=2, **settings)
