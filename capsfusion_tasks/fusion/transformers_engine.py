"""The reference engine: transformers' ``generate`` with the paper's settings. Slow, and right by definition."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils.logging import disable_progress_bar

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import Completion, Occupancy, Request, Requests
from capsfusion_tasks.fusion.model_files import NO_TENSORS, refuse_code

_WINDOW = 4  # batches that are sorted together


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """The checkpoint in ``folder``; never with code of its own."""
    refuse_code(folder)
    disable_progress_bar()
    # dtype is given, never left to default: a 13B model in float32 takes 52 GB of host memory for each rank.
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, weights_only=True
        )
    except pickle.UnpicklingError as error:
        raise InputError(f"the weights in {folder} cannot be read: {NO_TENSORS}. Take safetensors") from error
    return model.to(device).eval()


class TransformersEngine:
    """Beam search (or greedy, with one beam) over left-padded static batches, longest prompts first."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_beams: int,
        max_new_tokens: int,
        eos_id: int,
        pad_id: int,
        batch_size: int,
    ) -> None:
        self.model, self.eos_id, self.pad_id, self.batch_size = model, eos_id, pad_id, batch_size
        self.occupancy = Occupancy()
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

    def generate(self, requests: Requests) -> Iterator[Completion]:
        while window := requests.take(_WINDOW * self.batch_size, wait=True):
            ordered = sorted(window, key=lambda request: (-len(request.prompt), request.row))
            for start in range(0, len(ordered), self.batch_size):
                yield from self.generate_batch(ordered[start : start + self.batch_size])

    def shrink(self) -> bool:
        if self.batch_size == 1:
            return False
        self.batch_size //= 2
        return True

    @torch.inference_mode()
    def generate_batch(self, batch: Sequence[Request], width: int | None = None) -> list[Completion]:
        """One static batch, padded to ``width`` tokens (by default to its longest prompt)."""
        width = width or max(len(request.prompt) for request in batch)
        limits = [request.limit(self.generation.max_new_tokens) for request in batch]
        output = self.model.generate(
            **self._inputs(batch, width),
            generation_config=self.generation,
            stopping_criteria=StoppingCriteriaList([RowLimits(width, limits)]),
        )  # [B, S + generated]
        generated: list[list[int]] = output[:, width:].tolist()
        completions = [self._completion(r.row, ids, n) for r, ids, n in zip(batch, generated, limits, strict=True)]
        tokens = [completion.caption_tokens for completion in completions]
        self.occupancy.count(sum(tokens), max(tokens) * len(batch))
        return completions

    def _inputs(self, batch: Sequence[Request], width: int) -> dict[str, Any]:
        ids = torch.full((len(batch), width), self.pad_id, dtype=torch.long)  # [B, S], padded on the left
        mask = torch.zeros_like(ids)
        for i, request in enumerate(batch):
            ids[i, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[i, width - len(request.prompt) :] = 1
        return {"input_ids": ids.to(self.model.device), "attention_mask": mask.to(self.model.device)}

    def _completion(self, row: int, tokens: list[int], limit: int) -> Completion:
        tokens = tokens[:limit]
        if self.eos_id in tokens:
            end = tokens.index(self.eos_id)
            return Completion(row, tokens[:end], "stop", end + 1)
        return Completion(row, tokens, "length", len(tokens))


class RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch at its own number of generated tokens, behind a prompt of ``width`` tokens."""

    def __init__(self, width: int, limits: Sequence[int]) -> None:
        self._width, self._limits = width, torch.tensor(limits)

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        each = self._limits.to(input_ids.device).repeat_interleave(len(input_ids) // len(self._limits))
        return input_ids.shape[1] - self._width >= each
