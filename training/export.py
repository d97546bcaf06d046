"""Steps after training: average two checkpoints, and export the model folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from training.llama import Backbone, Shape, llama_config
from training.optimization import save


def average(work: Path, start: Path, share: float) -> None:
    """Replace the checkpoint in `work` with a weighted mean of this checkpoint and the checkpoint file `start`.

    `share` is the weight of the checkpoint in `work`. `start` has the weight 1 - `share`.
    """
    state, other = (torch.load(file, map_location="cpu") for file in (work / "checkpoint.pt", start))
    model = Backbone(Shape(**state["shape"]))
    model.load_state_dict(
        {name: share * weight + (1.0 - share) * other["model"][name] for name, weight in state["model"].items()}
    )
    save(work / "checkpoint.pt", {**state, "model": model.state_dict()})


def export(work: Path, out: Path) -> None:
    """Write the checkpoint as a transformers model folder with float16 weights."""
    state = torch.load(work / "checkpoint.pt", map_location="cpu")
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": weight.half().contiguous() for name, weight in state["model"].items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "config.json").write_text(json.dumps(llama_config(Shape(**state["shape"])), indent=2) + "\n")
    generation = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "num_beams": 3,
        "max_new_tokens": 80,
        "do_sample": False,
    }
    (out / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    (out / "tokenizer.model").write_bytes((work / "tokenizer.model").read_bytes())
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    print(f"step {state['step']:,}, {state['tokens'] / 1e6:.1f}M tokens: {size:.1f} MB in {out}")
