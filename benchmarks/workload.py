"""Reads the rows that benchmarks fuse: pairs from a file, or generated pairs."""

from __future__ import annotations

import random
from pathlib import Path

from capsfusion_tasks.caption_files import open_caption_file
from capsfusion_tasks.demo.pairs import make_pair
from capsfusion_tasks.fusion.engine import Request
from capsfusion_tasks.fusion.prompt import prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

CAPTION = "capsfusion_official"


def read_pairs(file: Path | None, rows: int, caption: str | None = None) -> list[tuple[str, ...]]:
    """The first ``rows`` pairs (raw, synthetic) of ``file``. If ``file`` is None, generates pairs.

    The demo model was not trained on these generated pairs. If ``caption`` names a column, the third item of each pair
    is the text of this column, or the fused caption of the generated pair.
    """
    if file is None:
        rng = random.Random(0)
        made = [make_pair(rng, "heldout") for _ in range(rows)]
        return [(pair.raw, pair.synthetic, *([pair.fused] if caption else [])) for pair in made]
    names = ["laion_2b", "laion_coco", *([caption] if caption else [])]
    table = next(open_caption_file(file, names).captions(rows))
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def read_workload(file: Path | None, rows: int, tokenizer: LlamaTokenizer, most: int) -> list[Request]:
    """Requests for ``rows`` rows. Each row ends after as many tokens as its published caption has (at most ``most``).

    Random models need this limit, because they never end a caption.
    """
    requests = []
    for row, (raw, synthetic, caption) in enumerate(read_pairs(file, rows, CAPTION)):
        tokens = min(most, len(tokenizer.encode(caption, bos=False)) + 1)
        requests.append(Request(row, prompt_tokens(tokenizer, raw, synthetic), tokens))
    return requests
