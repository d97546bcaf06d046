"""Estimates the tokens of a row's prompt and fused caption from the lengths of its two source captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.context import Context
from capsfusion_tasks.fusion.identity import template_of, tokenizer_of
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, Prompt, clean_caption
from capsfusion_tasks.fusion.template import PAPER, Template
from capsfusion_tasks.fusion.tokenizer import Tokenizer
from capsfusion_tasks.schemas import PAIRS
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import rates
from capsfusion_tasks.warehouse.known_pairs import Transactions

_SAMPLE_ROWS = 500  # tokenizing 500 rows takes 0.1 s and gives the characters per token to within 2%
_SAMPLE_FILES = 16
_SAMPLE_CHARACTERS = 1000  # longer captions are cut to this length, because prompts have no room for longer ones


@dataclass(frozen=True)
class TokenEstimate:
    """Averages for estimating tokens. The defaults come from LLaMA's tokenizer and 5,000 published CapsFusion pairs."""

    template_tokens: int = 126  # tokens of a prompt without captions
    characters_per_token: float = 3.64  # characters of both source captions, divided by their tokens
    caption_share: float = 1.16  # tokens of the fused caption, divided by the tokens of both source captions
    max_new_tokens: int = 80

    def of(self, pairs: pa.Table) -> np.ndarray:
        """Estimated tokens of each row's prompt and caption together, [rows] int32."""
        characters = pc.add(pc.utf8_length(pairs["laion_2b"]), pc.utf8_length(pairs["laion_coco"])).to_numpy()
        # The template leaves this many tokens of a prompt for both source captions. Longer captions are cut.
        room = max(0, MAX_PROMPT_TOKENS - self.template_tokens)
        source = np.minimum(characters / self.characters_per_token, room)
        caption = np.clip(source * self.caption_share, 1, self.max_new_tokens)
        tokens: np.ndarray = np.rint(self.template_tokens + source + caption).astype(np.int32)
        return tokens

    def with_tokenizer(self, tokenizer: Tokenizer, sample: pa.Table, template: Template = PAPER) -> TokenEstimate:
        """Return this estimate with values that are measured with ``tokenizer``.

        Measures the tokens of the prompt template, and the characters per token of the captions in ``sample``.
        """
        prompt = Prompt(tokenizer, template)
        empty = len(prompt.encode("", ""))
        known = replace(self, template_tokens=min(empty, MAX_PROMPT_TOKENS))
        some = np.linspace(0, sample.num_rows - 1, min(sample.num_rows, _SAMPLE_ROWS)).astype(np.int64)
        characters = tokens = 0
        for row in sample.take(pa.array(some)).to_pylist():
            raw, synthetic = (row[name][:_SAMPLE_CHARACTERS] for name in ("laion_2b", "laion_coco"))
            characters += len(raw) + len(synthetic)
            tokens += len(prompt.encode(clean_caption(raw), clean_caption(synthetic))) - empty
        return replace(known, characters_per_token=characters / tokens) if characters and tokens > 0 else known

    def with_measured(self, rows: int, prompt_tokens: int, caption_tokens: int) -> TokenEstimate:
        """Return this estimate with the ``caption_share`` of rows that are already fused.

        ``rows`` is the number of these rows. ``prompt_tokens`` and ``caption_tokens`` are sums over these rows.
        """
        source = prompt_tokens - rows * self.template_tokens
        return replace(self, caption_share=caption_tokens / source) if source > 0 and caption_tokens > 0 else self


DEFAULT = TokenEstimate()


def estimate_for(context: Context, begin: Transactions, paths: Iterable[str]) -> TokenEstimate:
    """Averages for estimating the tokens of the pairs in the files ``paths``.

    Tokenizes a sample of the pairs. Takes the length of fused captions from the last units that were fused with the
    current settings.
    """
    decoding = context.decoding
    estimate = TokenEstimate(max_new_tokens=decoding.max_new_tokens)
    if tokenizer := tokenizer_of(decoding, context.settings):
        estimate = estimate.with_tokenizer(tokenizer, _sample(context.storage, paths), template_of(decoding))
    with begin() as connection:
        measured = rates.measured(connection, decoding.fusion_id)
    return estimate.with_measured(*measured.fused) if measured and measured.fused else estimate


def _sample(storage: Storage, paths: Iterable[str]) -> pa.Table:
    """The captions of a few hundred pairs, from the first files that have pairs."""
    names = ["laion_2b", "laion_coco"]
    found = [PAIRS.empty_table().select(names)]
    rows = 0
    for path in islice(paths, _SAMPLE_FILES):
        found.append(storage.read_table(path, columns=names).replace_schema_metadata(None))
        rows += found[-1].num_rows
        if rows >= _SAMPLE_ROWS:
            break
    return pa.concat_tables(found)
