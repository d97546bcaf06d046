"""Writes a random LLaMA in the file layout of BAAI/CapsFus-LLaMA, for end-to-end runs without a download.

    python -m benchmarks.random_checkpoint FOLDER [--size 13B] [--tokenizer FILE] [--pairs FILE] [--device cuda]

The folder gets six .bin files of weights with their index, config.json, added_tokens.json and tokenizer.model. With
--size 13B, they take 26 GB of disk. Random weights never end a caption. So the vocabulary head's row for EOS is scaled
up until captions have on average about as many tokens as the captions that CapsFusion published.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from transformers import LlamaConfig

from benchmarks.random_llama import SIZES, random_llama
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.engine import Request, StaticRequests
from capsfusion_tasks.fusion.native.engine import NativeEngine
from capsfusion_tasks.fusion.native.model import Llama
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens, shared_prefix
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer

SHARDS = 6
CAPTION_TOKENS = 37.0  # mean number of tokens of CapsFusion's published captions, including EOS
NEAR_ENOUGH = 6.0  # largest difference from CAPTION_TOKENS that is accepted
_TRIES = 9
_LARGEST_FACTOR = 64.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="new folder for the checkpoint, which must not exist yet")
    parser.add_argument("--size", choices=SIZES, default="13B")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        default=BUNDLED_MODEL / "tokenizer.model",
        help="sentencepiece file (default: the demo model's tokenizer.model)",
    )
    parser.add_argument("--pairs", type=Path, help="file of pairs to measure caption lengths with (default: generated)")
    parser.add_argument("--device", type=torch.device, default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    started = time.monotonic()
    tokens = write_checkpoint(args.folder, args.size, args.tokenizer, read_pairs(args.pairs, 48), args.device)
    size = sum(file.stat().st_size for file in args.folder.iterdir())
    print(
        f"{args.folder}: {args.size}, {size / 1e9:.3g} GB, captions of {tokens:.1f} tokens on average,"
        f" written in {time.monotonic() - started:.1f} s"
    )


def write_checkpoint(
    folder: Path, size: str, tokenizer_file: Path, pairs: Sequence[tuple[str, ...]], device: torch.device
) -> float:
    """Write a checkpoint to ``folder``, which must not exist yet. Returns the mean number of tokens of its captions."""
    tokenizer = LlamaTokenizer(tokenizer_file)
    config = LlamaConfig(
        **{**SIZES[size], "vocab_size": tokenizer.vocab_size + 1, "pad_token_id": tokenizer.vocab_size}
    )
    config.architectures = ["LlamaForCausalLM"]
    # float32 on a CPU, because without AMX or AVX-512 BF16, bfloat16 products take ten times as long.
    model = random_llama(config, device, torch.bfloat16 if device.type == "cuda" else torch.float32)
    tokens = _let_captions_end(model, tokenizer, pairs)

    folder.mkdir(parents=True)
    config.save_pretrained(folder)
    shutil.copyfile(tokenizer_file, folder / "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"[PAD]": tokenizer.vocab_size}))
    _write_shards(folder, model.parameters())
    return tokens


def _let_captions_end(model: Llama, tokenizer: LlamaTokenizer, pairs: Sequence[tuple[str, ...]]) -> float:
    """Scale up the vocabulary head's row for EOS until captions have about CAPTION_TOKENS tokens.

    Returns the mean number of tokens of the captions.
    """
    requests = [Request(row, prompt_tokens(tokenizer, raw, synthetic)) for row, (raw, synthetic) in enumerate(pairs)]
    engine = NativeEngine(
        model,
        num_beams=3,
        max_new_tokens=80,
        max_prompt_tokens=MAX_PROMPT_TOKENS,
        eos_ids=[tokenizer.eos_id],
        prefix=shared_prefix(tokenizer),
        batch_size=len(requests),
    )
    row = model.head[tokenizer.eos_id]
    drawn = row.clone()
    low, high = 1.0, _LARGEST_FACTOR  # a larger factor makes captions shorter
    for _ in range(_TRIES):
        factor = (low * high) ** 0.5
        row.copy_(drawn * factor)
        tokens = mean(completion.caption_tokens for completion in engine.generate(StaticRequests(requests)))
        print(f"EOS row scaled by {factor:.2f}: captions have {tokens:.1f} tokens", file=sys.stderr)
        if abs(tokens - CAPTION_TOKENS) <= NEAR_ENOUGH:
            break
        low, high = (factor, high) if tokens > CAPTION_TOKENS else (low, factor)
    return tokens


def _write_shards(folder: Path, weights: Mapping[str, Any]) -> None:
    names = list(weights)
    places = {
        name: f"pytorch_model-{SHARDS * i // len(names) + 1:05}-of-{SHARDS:05}.bin" for i, name in enumerate(names)
    }

    def write(file: str) -> None:
        # Copy each weight, because it can be a view of a larger matrix, and torch.save would write the whole matrix.
        own = {
            name: torch.empty_like(weight, device="cpu", dtype=torch.bfloat16).copy_(weight)
            for name, weight in weights.items()
            if places[name] == file
        }
        torch.save(own, folder / file)

    # A thread per file, because torch.save mostly computes checksums, which several threads can do in parallel.
    with ThreadPoolExecutor(SHARDS) as pool:
        list(pool.map(write, sorted(set(places.values()))))
    total = sum(weight.numel() for weight in weights.values()) * torch.bfloat16.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


if __name__ == "__main__":
    main()
