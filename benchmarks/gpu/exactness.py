"""Compares the engine's captions in float32 with those of transformers. Uses fewer rows than benchmarks.exactness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.exactness import Subject, random_checkpoint
from benchmarks.gpu.cases import Case, Figures, Line, Options, name_of_beams
from benchmarks.workload import read_pairs
from capsfusion_tasks import BUNDLED_MODEL

SLOTS = 24  # fewer slots than rows, so that slots are reused


def cases(options: Options) -> list[Case]:
    return [
        Case("exactness, demo model", partial(compare, options, BUNDLED_MODEL)),
        Case("exactness, random LLaMA", partial(compare, options, None)),
    ]


def compare(options: Options, model: Path | None, _: Mapping[str, Figures]) -> Sequence[Line]:
    """Compare the captions that the native engine and transformers make with ``model``. None: a random LLaMA."""
    folder = model or random_checkpoint(options.scratch, options.tokenizer)
    pairs = read_pairs(options.pairs, options.exact_rows)
    subject = Subject(folder, pairs, options.device, random_weights=model is None)
    lines = []
    for beams in (3, 1):
        got = subject.complete(subject.requests, beams, SLOTS)
        same, ties, other = subject.compare(subject.complete_by_transformers(beams), got)
        lines.append(
            Line(
                f"exactness, {subject.name}, {name_of_beams(beams)}",
                f"{same} of {len(got)} rows the same",
                f"{ties} ties, {other} others",
                {"same": same, "ties": ties, "other": other},
                ok=not other,
            )
        )
    return lines
