"""Two baselines for the engine's speed: the loop of the paper's script, and transformers' generate with sorted rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from capsfusion_tasks.fusion.engine import Completion, Request, Requests
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS
from capsfusion_tasks.fusion.transformers_engine import TransformersEngine


class PaperLoop(TransformersEngine):
    """The released inference script of the paper: batches of 4 prompts in the file's order, padded to 256 tokens."""

    BATCH = 4

    def __init__(self, model: PreTrainedModel, **settings: Any) -> None:
        super().__init__(model, batch_size=self.BATCH, **settings)

    def generate(self, requests: Requests) -> Iterator[Completion]:
        while batch := requests.take(self.BATCH, wait=True):
            yield from self.generate_batch(batch, width=MAX_PROMPT_TOKENS)


class PrefixedTransformers(TransformersEngine):
    """transformers' generate for rows sorted by length. Computes the keys and values of ``prefix`` only once.

    ``prefix``: the tokens with which all prompts begin.
    """

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, prefix: Sequence[int], **settings: Any) -> None:
        super().__init__(model, **settings)
        self._prefix = list(prefix)
        cache = DynamicCache()
        model(input_ids=torch.tensor([self._prefix], device=model.device), past_key_values=cache, logits_to_keep=1)
        self._cached = [(layer.keys, layer.values) for layer in cache.layers]  # each [1, heads, tokens, head size]

    def _inputs(self, batch: Sequence[Request], width: int) -> dict[str, Any]:
        p = len(self._prefix)
        ids = torch.full((len(batch), width), self.pad_id, dtype=torch.long)  # a row: prefix, padding, rest of prompt
        mask = torch.zeros_like(ids)
        ids[:, :p], mask[:, :p] = torch.tensor(self._prefix), 1
        for i, request in enumerate(batch):
            own = request.prompt[p:]
            ids[i, width - len(own) :] = torch.tensor(own)
            mask[i, width - len(own) :] = 1
        cache, copies = DynamicCache(), len(batch) * (self.generation.num_beams or 1)
        for layer, (keys, values) in enumerate(self._cached):
            cache.update(keys.repeat(copies, 1, 1, 1), values.repeat(copies, 1, 1, 1), layer)
        device = self.model.device
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "past_key_values": cache}
