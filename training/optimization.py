"""The loss, the optimizers with their learning rates, and checkpoints, for training and for unlikelihood training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.llama import Backbone


def target_loss(hidden: Tensor, embedding: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of hidden states [N, hidden] against target ids [N]. The embedding is also the output head."""
    return F.cross_entropy(F.linear(hidden, embedding).float(), targets)


def learning_rate(step: int, done: float, peak: float, warmup: int) -> float:
    """The learning rate of a step. `done` is the share of the training that is done, from 0 to 1.

    The rate rises linearly to `peak` in `warmup` steps, stays at `peak`, and falls linearly to 0 in the second half of
    the training.
    """
    return peak * min(1.0, (step + 1) / warmup, 2.0 * max(0.0, 1.0 - done))


def optimizers(model: Backbone, peak: float, muon_peak: float) -> list[torch.optim.Optimizer]:
    """Muon (Jordan et al., 2024) for the matrices of the layers, AdamW for the embedding and the norms.

    Each optimizer has its own peak learning rate. `match_rms_adamw` scales Muon's updates to the size of AdamW's.
    """
    inner = [weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name]
    norms = [weight for weight in model.parameters() if weight.dim() != 2]
    return [
        torch.optim.Muon(inner, lr=muon_peak, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [model.embed_tokens.weight], "weight_decay": 0.1},
                {"params": norms, "weight_decay": 0.0},
            ],
            lr=peak,
            betas=(0.9, 0.95),
            fused=True,
        ),
    ]


def restart(updates: list[torch.optim.Optimizer], states: list[dict[str, Any]], peaks: tuple[float, ...]) -> None:
    """Load the optimizers' states and set new peak learning rates for a new schedule."""
    for update, state, peak in zip(updates, states, peaks, strict=True):
        update.load_state_dict(state)
        for group in update.param_groups:
            group["peak"] = peak


def schedule(updates: list[torch.optim.Optimizer], step: int, done: float, warmup: int = 200) -> None:
    """Set the learning rates of the optimizers `updates` for this step."""
    for group in (group for update in updates for group in update.param_groups):
        group["lr"] = learning_rate(step, done, group.setdefault("peak", group["lr"]), warmup)


def load(model: Backbone, file: Path, device: str) -> dict[str, Any]:
    """Load the checkpoint's weights into `model`, and return the checkpoint."""
    state: dict[str, Any] = torch.load(file, map_location=device)
    model.load_state_dict(state["model"])
    return state


def checkpoint(
    model: Backbone, updates: list[torch.optim.Optimizer], shape: dict[str, Any], progress: dict[str, Any]
) -> dict[str, Any]:
    """The contents of a checkpoint, for `load` and `restart`."""
    states = [update.state_dict() for update in updates]
    return {"model": model.state_dict(), "optimizers": states, "shape": shape, **progress}


def save(file: Path, state: dict[str, Any]) -> None:
    """Replace `file` atomically, so that an interrupted save leaves the previous checkpoint."""
    part = file.with_suffix(".part")
    torch.save(state, part)
    part.replace(file)
