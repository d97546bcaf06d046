"""Compare generated pairs with a file of real pairs: caption lengths, characters, and words that captions share.

    python training/compare_captions.py pairs.jsonl
    python training/compare_captions.py pairs.jsonl --pairs 5000 --split train

The file has one JSON object per line with `laion_2b`, `laion_coco` and `capsfusion_official`. Tokens are counted
with the demo model's tokenizer.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.validation.text import ngrams, sentences, words

# Phrases that can join any two captions, whatever they describe.
FIXED_PHRASE = re.compile(
    r"\b(?:(?:the|this|an) (?:image|photo|picture)\b|titled\b|(?:is|are) (?:shown|seen|displayed|depicted|featured)\b|"
    r"can be seen\b|as (?:shown|seen)\b|(?:shows|showing) (?:a|an|the|two)\b)",
    re.IGNORECASE,
)


def joined_with_a_fixed_phrase(caption: str) -> bool:
    """Whether a fused caption joins raw and synthetic caption with a phrase that fits any two captions ("is seen")."""
    return FIXED_PHRASE.search(caption) is not None


def shares_three_words(raw: str, synthetic: str) -> bool:
    """Whether the raw and the synthetic caption share three consecutive words."""
    return bool(set(ngrams(words(raw), 3)) & set(ngrams(words(synthetic), 3)))


def _share(text: str, kind: Callable[[str], bool]) -> float:
    return sum(map(kind, text)) / max(1, len(text))


def _is_mark(character: str) -> bool:
    return not character.isalnum() and not character.isspace()


def _percentiles(values: list[int]) -> str:
    return " ".join(f"{np.percentile(values, each):4.0f}" for each in (5, 25, 50, 75, 95, 99))


def figures(pairs: list[tuple[str, str, str]], tokenizer: LlamaTokenizer) -> dict[str, str]:
    """The figures to compare, as text. Each is a share, or the percentiles 5, 25, 50, 75, 95 and 99 of a length."""
    table: dict[str, str] = {}
    for place, side in enumerate(("raw", "synthetic", "fused")):
        texts = [pair[place] for pair in pairs]
        table[f"{side} words"] = _percentiles([len(text.split()) for text in texts])
        table[f"{side} tokens"] = _percentiles([len(tokenizer.encode(text, bos=False)) for text in texts])
        for name, kind in (("digits", str.isdigit), ("capitals", str.isupper), ("marks", _is_mark)):
            table[f"{side} {name}"] = f"{np.mean([_share(text, kind) for text in texts]):.3f}"
    raws, synthetics = ([set(words(pair[place])) for pair in pairs] for place in (0, 1))
    overlaps = [len(one & two) / max(1, len(one | two)) for one, two in zip(raws, synthetics, strict=True)]
    table["overlap of the sources"] = f"{np.mean(overlaps):.3f}"
    shares: dict[str, list[float]] = {
        "sources share three words": [shares_three_words(raw, synthetic) for raw, synthetic, _ in pairs],
        "raw of 20 words or more": [len(raw.split()) >= 20 for raw, _, _ in pairs],
        "raw words kept": [
            len(raw & set(words(fused))) / max(1, len(raw)) for raw, (_, _, fused) in zip(raws, pairs, strict=True)
        ],
        "fused of several sentences": [len(sentences(fused)) > 1 for _, _, fused in pairs],
        "joined with a fixed phrase": [joined_with_a_fixed_phrase(fused) for _, _, fused in pairs],
    }
    return table | {name: f"{np.mean(values):.3f}" for name, values in shares.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("real", type=Path, help="JSON Lines file of real pairs")
    parser.add_argument("--pairs", type=int, default=3000)
    parser.add_argument("--split", default="train")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--tokenizer", type=Path, default=Path("capsfusion_tasks/demo/model/tokenizer.model"))
    args = parser.parse_args()
    tokenizer, rng = LlamaTokenizer(args.tokenizer), random.Random(args.seed)
    with args.real.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(args.pairs), strict=False)]
    real = figures([(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in rows], tokenizer)
    pairs: list[MadePair] = [make_pair(rng, args.split) for _ in range(args.pairs)]
    made = figures([(pair.raw, pair.synthetic, pair.fused) for pair in pairs], tokenizer)
    print(f"{'':28} {'real':>30} {'generated':>30}")
    for name, value in real.items():
        print(f"{name:28} {value:>30} {made[name]:>30}")


if __name__ == "__main__":
    main()
