"""Evaluate a demo model on generated pairs with names that it never saw in training, or on a file of real pairs.

    python training/evaluate_demo_model.py --model capsfusion_tasks/demo/model --pairs 1000 --num-beams 3
    python training/evaluate_demo_model.py --model capsfusion_tasks/demo/model --real pairs.jsonl --pairs 1000

The file of real pairs has one JSON object per line with `laion_2b` and `laion_coco`. Decoding is as in the
CapsFusion paper: transformers' generate, at most 80 new tokens, no sampling.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.fusion.prompt import prompt_tokens
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.validation.rules import DEFAULTS, reasons
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.text import repeated_share, words
from training.compare_captions import joined_with_a_fixed_phrase

MAX_NEW_TOKENS = 80
# Words that do not count as content words, because they carry little meaning.
STOP_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "by",
        "for",
        "from",
        "has",
        "have",
        "in",
        "is",
        "it",
        "its",
        "of",
        "on",
        "or",
        "s",
        "that",
        "the",
        "this",
        "to",
        "was",
        "with",
        "your",
        "you",
    )
)


@dataclass(frozen=True)
class Source:
    """A raw and a synthetic caption. `made`: the generated pair with its expected caption; None for real pairs."""

    raw: str
    synthetic: str
    made: MadePair | None = None


def heldout_sources(count: int, seed: int) -> list[Source]:
    rng = random.Random(seed)
    pairs = [make_pair(rng, "heldout") for _ in range(count)]
    return [Source(pair.raw, pair.synthetic, pair) for pair in pairs]


def real_sources(file: Path, count: int) -> list[Source]:
    """The first `count` pairs of a JSON Lines file."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]
    return [Source(row["laion_2b"], row["laion_coco"]) for row in rows]


@torch.inference_mode()
def fuse(
    model: LlamaForCausalLM, tokenizer: LlamaTokenizer, sources: list[Source], num_beams: int, batch: int
) -> list[tuple[str, str]]:
    """The fused caption and finish reason ("stop" or "length") of each source, in order."""
    prompts = [prompt_tokens(tokenizer, source.raw, source.synthetic) for source in sources]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    fused: list[tuple[str, str]] = [("", "")] * len(prompts)
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        ids, mask = _left_padded([prompts[row] for row in rows], tokenizer.pad_id)
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            num_beams=num_beams,
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            pad_token_id=tokenizer.pad_id,
        )[:, ids.shape[1] :]
        for row, caption in zip(rows, out.tolist(), strict=True):
            end = caption.index(tokenizer.eos_id) if tokenizer.eos_id in caption else None
            fused[row] = tokenizer.decode(caption[:end]).strip(), "length" if end is None else "stop"
    return fused


def _left_padded(prompts: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids [B, S], padded on the left, and their attention mask."""
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids, mask


def content_words(text: str) -> set[str]:
    return {word for word in words(text) if word not in STOP_WORDS}


def report(sources: list[Source], fused: list[tuple[str, str]]) -> dict[str, float]:
    """The figures of the model card: shares from 0 to 1, and the mean caption length in words."""
    count = len(sources)
    captions = [caption for caption, _ in fused]
    looped = [
        repeated_share(words(caption)) > DEFAULTS.repetition_max or finish == "length" for caption, finish in fused
    ]
    verdicts = [
        reasons(Fused(source.raw, source.synthetic, caption, finish))
        for source, (caption, finish) in zip(sources, fused, strict=True)
    ]
    figures: dict[str, float] = {"pairs": count}
    made = [(source.made, caption) for source, caption in zip(sources, captions, strict=True) if source.made]
    if made:
        entity_words = [(w, caption) for pair, caption in made for entity in pair.entities for w in entity.split()]
        figures["entity words kept"] = sum(word in caption for word, caption in entity_words) / len(entity_words)
        figures["all entities kept"] = sum(all(e in caption for e in pair.entities) for pair, caption in made) / count
        figures["exact match"] = sum(pair.fused == caption for pair, caption in made) / count
    for name, side in (("raw", "raw"), ("synthetic", "synthetic")):
        wanted = [(content_words(getattr(s, side)), content_words(c)) for s, c in zip(sources, captions, strict=True)]
        shares = [len(want & got) / len(want) for want, got in wanted if want]
        figures[f"{name} content words kept"] = sum(shares) / len(shares)
    figures["accepted by validation"] = sum(not verdict for verdict in verdicts) / count
    figures["loops or stopped at the limit"] = sum(looped) / count
    figures["joined with a fixed phrase"] = sum(map(joined_with_a_fixed_phrase, captions)) / count
    for reason, times in Counter(reason for verdict in verdicts for reason in verdict).most_common():
        figures[f"rejected: {reason}"] = times / count
    figures["mean words"] = sum(len(caption.split()) for caption in captions) / count
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("capsfusion_tasks/demo/model"))
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--num-beams", type=int, default=1, help="number of beams; with 1, the search is greedy")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument(
        "--real", type=Path, help="JSON Lines file of real pairs; default: generated pairs that training has not seen"
    )
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--show", type=int, default=0, help="number of captions to print")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = LlamaForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = LlamaTokenizer(args.model / "tokenizer.model")
    sources = real_sources(args.real, args.pairs) if args.real else heldout_sources(args.pairs, args.seed)
    started = time.monotonic()
    fused = fuse(model, tokenizer, sources, args.num_beams, args.batch)
    seconds = time.monotonic() - started
    for source, (caption, finish) in list(zip(sources, fused, strict=True))[: args.show]:
        print(f"raw:       {source.raw}\nsynthetic: {source.synthetic}\nfused:     {caption} [{finish}]\n")
    for name, value in report(sources, fused).items():
        print(f"{name:32} {value:.0f}" if name == "pairs" else f"{name:32} {value:.3f}")
    print(f"{'rows a second':32} {len(sources) / seconds:.1f}")


if __name__ == "__main__":
    main()
