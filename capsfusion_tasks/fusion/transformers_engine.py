"""The reference engine: transformers' ``generate`` with the paper's settings. Slow, and right by definition."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.utils.logging import disable_progress_bar

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Completion, Request


class TransformersEngine:
    """Beam search (or greedy, with one beam) over left-padded static batches, longest prompts first."""

    def __init__(
        self,
        folder: Path,
        *,
        device: torch.device,
        dtype: torch.dtype,
        num_beams: int,
        max_new_tokens: int,
        eos_id: int,
        pad_id: int,
        batch_size: int,
    ) -> None:
        _refuse_remote_code(folder)
        disable_progress_bar()
        # dtype is given, never left to default: a 13B model in float32 takes 52 GB of host memory for each rank.
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
        self.model.to(device).eval()
        self.device, self.eos_id, self.pad_id, self.batch_size = device, eos_id, pad_id, batch_size
        # Not from the checkpoint's generation_config.json: a sampling default there must not leak in.
        self.generation = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            max_new_tokens=max_new_tokens,
            length_penalty=1.0,
            early_stopping=False,
            eos_token_id=eos_id,
            pad_token_id=pad_id,
        )

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        ordered = sorted(requests, key=lambda request: (-len(request.prompt), request.row))
        for start in range(0, len(ordered), self.batch_size):
            yield from self.generate_batch(ordered[start : start + self.batch_size])

    @torch.inference_mode()
    def generate_batch(self, batch: Sequence[Request], width: int | None = None) -> list[Completion]:
        """One static batch, padded to ``width`` tokens (by default to its longest prompt)."""
        width = width or max(len(request.prompt) for request in batch)
        ids = torch.full((len(batch), width), self.pad_id, dtype=torch.long)  # [B, S], padded on the left
        mask = torch.zeros_like(ids)
        for i, request in enumerate(batch):
            ids[i, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[i, width - len(request.prompt) :] = 1
        output = self.model.generate(
            input_ids=ids.to(self.device), attention_mask=mask.to(self.device), generation_config=self.generation
        )  # [B, S + generated]
        generated: list[list[int]] = output[:, width:].tolist()
        return [self._completion(request.row, tokens) for request, tokens in zip(batch, generated, strict=True)]

    def _completion(self, row: int, tokens: list[int]) -> Completion:
        if self.eos_id in tokens:
            end = tokens.index(self.eos_id)
            return Completion(row, tokens[:end], "stop", end + 1)
        return Completion(row, tokens, "length", len(tokens))


def _refuse_remote_code(folder: Path) -> None:
    """transformers asks on the terminal when a checkpoint wants to run code of its own; a worker has none to ask."""
    config = json.loads((folder / "config.json").read_text())
    if config.get("auto_map"):
        raise InputError(
            f"{folder}/config.json wants to run code of its own (auto_map); only built-in models are loaded"
        )
