"""The reference engine: transformers' ``generate`` with the paper's settings.

It is slow, but it defines the correct captions.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.utils.logging import disable_progress_bar, get_verbosity, set_verbosity, set_verbosity_error

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.engine import NOT_FINITE, Beam, Completion, Occupancy, Request, Requests
from capsfusion_tasks.fusion.model_files import read_config
from capsfusion_tasks.fusion.native.sizes import FAMILIES
from capsfusion_tasks.fusion.tensors import check_names, is_finite, open_tensors, refuse_not_finite
from capsfusion_tasks.fusion.weight_files import refuse_misfit, unread_files, weight_files

log = logging.getLogger(__name__)

_WINDOW = 4  # number of batches that are taken at once; their rows are sorted by prompt length


def load_model(folder: Path, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Load the checkpoint in ``folder``. Never runs code of the checkpoint.

    Raises InputError if the checkpoint cannot be loaded, or if its tensors do not match the model. transformers itself
    would fill missing tensors with random numbers and continue.
    """
    config = read_config(folder)
    files = weight_files(folder)
    if unread := unread_files(folder, files):
        log.info("ignoring files in %s that are not part of the model: %s", folder, ", ".join(unread))
    with _loading(folder, files) as links:
        if config.get("model_type") in FAMILIES:  # no check of other models: transformers may rename their tensors
            check_names(folder, files, _shapes(links), tied=bool(config.get("tie_word_embeddings")))
        else:
            for file in files:
                open_tensors(file)
        # Always give the dtype. The default is the dtype in config.json or of the weights. If that is float32, a 13B
        # model takes 52 GB of host memory for each rank.
        model, loading = AutoModelForCausalLM.from_pretrained(
            links,
            dtype=dtype,
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # report mismatched sizes in the result instead of raising
        )
    refuse_misfit(
        folder,
        missing=loading["missing_keys"],
        unknown=loading["unexpected_keys"],
        other=[
            f"{name} has shape {list(stored)}, config.json says {list(expected)}"
            for name, stored, expected in sorted(loading["mismatched_keys"])
        ],
    )
    if model.config.is_encoder_decoder:
        raise InputError(f"{folder}/config.json sets is_encoder_decoder: give a model without an encoder")
    model = model.to(device).eval()
    refuse_not_finite(folder, {name: is_finite(weight.data) for name, weight in model.named_parameters()})
    # Without this line, ``generate`` also applies decoding settings of the checkpoint, such as repetition_penalty.
    model.generation_config = GenerationConfig()
    return model


@contextmanager
def _loading(folder: Path, files: Sequence[Path]) -> Iterator[Path]:
    """A folder with links to the files of ``folder`` that transformers may read.

    These files are config.json, ``files`` and the index files. From ``folder`` itself, transformers would also load an
    adapter, if the folder has one and peft is installed. An error in the ``with`` block becomes an InputError.
    """
    names = ["config.json", *(file.name for file in folder.glob("*.index.json")), *(file.name for file in files)]
    verbosity = get_verbosity()
    set_verbosity_error()  # hide transformers' warnings, because this function raises an error for the same problems
    disable_progress_bar()
    with TemporaryDirectory(prefix="capsfusion-model-") as links:
        try:
            for name in names:
                (Path(links) / name).symlink_to((folder / name).absolute())
            yield Path(links)
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # an invalid config raises arbitrary errors in transformers
            reason = f"{type(error).__name__}: {error}".replace("\n", " ").replace(links, str(folder))
            raise InputError(f"transformers cannot load {folder}: {reason[:500]}") from error
        finally:
            set_verbosity(verbosity)


def _shapes(folder: Path) -> dict[str, list[int]]:
    """The shape of each tensor, by name, in the model that config.json describes. Allocates no memory for tensors."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return {name: list(tensor.shape) for name, tensor in model.state_dict().items()}


class TransformersEngine:
    """Beam search over static, left-padded batches, longest prompts first. With num_beams=1 the search is greedy."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_beams: int,
        max_new_tokens: int,
        eos_ids: Sequence[int],
        pad_id: int,
        batch_size: int,
        keep_beams: bool = False,
    ) -> None:
        self.model, self.eos_ids, self.pad_id, self.batch_size = model, tuple(eos_ids), pad_id, batch_size
        self.occupancy = Occupancy()
        # Do not use the checkpoint's generation_config.json, because its sampling settings must not apply here.
        self.generation = GenerationConfig(
            do_sample=False,
            num_beams=num_beams,
            num_return_sequences=num_beams if keep_beams else 1,
            max_new_tokens=max_new_tokens,
            length_penalty=1.0,
            early_stopping=False,
            eos_token_id=list(self.eos_ids),
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
        """The captions of one static batch. Pads prompts to ``width`` tokens, by default to the longest prompt."""
        width = width or max(len(request.prompt) for request in batch)
        limits = [request.limit(self.generation.max_new_tokens) for request in batch]
        watch = NaNWatch(len(batch))
        output = self.model.generate(
            **self._inputs(batch, width),
            generation_config=self.generation,
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([RowLimits(width, limits)]),
        )  # [B * kept, S + generated], the kept captions of a row one after the other
        generated: list[list[list[int]]] = output[:, width:].unflatten(0, (len(batch), -1)).tolist()
        completions = [
            Completion(request.row, [], NOT_FINITE, 0) if is_nan else self._completion(request.row, captions, limit)
            for request, captions, limit, is_nan in zip(batch, generated, limits, watch.rows(), strict=True)
        ]
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

    def _completion(self, row: int, captions: list[list[int]], limit: int) -> Completion:
        best, *others = (self._beam(tokens[:limit]) for tokens in captions)
        return Completion(row, best.token_ids, best.finish_reason, best.caption_tokens, others=(*others,))

    def _beam(self, tokens: list[int]) -> Beam:
        """Make a beam from generated tokens. They may end with padding."""
        ends = (place for place, token in enumerate(tokens, start=1) if token in self.eos_ids)
        return Beam.of(tokens[: next(ends, len(tokens))], self.eos_ids)


class RowLimits(StoppingCriteria):  # type: ignore[misc]
    """Ends each row of a batch after its own maximum number of new tokens. Prompts are padded to ``width`` tokens."""

    def __init__(self, width: int, limits: Sequence[int]) -> None:
        self._width, self._limits = width, torch.tensor(limits)

    def __call__(self, input_ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        each = self._limits.to(input_ids.device).repeat_interleave(len(input_ids) // len(self._limits))
        return input_ids.shape[1] - self._width >= each


class NaNWatch(LogitsProcessor):  # type: ignore[misc]
    """Records which rows of a batch had NaN scores. Does not change scores. ``size``: number of rows."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._found: torch.Tensor | None = None  # [B], on the scores' device

    def __call__(self, _: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        found = scores.view(self._size, -1).isnan().any(dim=1)  # the beams of a row stand one after the other
        self._found = found if self._found is None else self._found | found
        return scores

    def rows(self) -> list[bool]:
        return [False] * self._size if self._found is None else self._found.tolist()
