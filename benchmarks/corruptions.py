"""Plants one fault into each of many good captions, and tests whether validation rejects them for the right reason.

A caption counts as good if validation accepts it before the fault is planted. ``python -m benchmarks.validation``
prints, for each kind of fault, the share of captions that validation rejects.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pyarrow as pa

from benchmarks import planted_facts as facts
from benchmarks import planted_form as form
from benchmarks.pair import Pair
from capsfusion_tasks.validation.validate import validate_table

# Kind of fault → the right reasons for rejecting a caption with this fault.
CORRUPTIONS: dict[Callable[[Pair, random.Random], str | None], tuple[str, ...]] = {
    form.truncation: ("truncated",),
    form.cut_in_a_word: ("truncated",),
    form.leakage: ("prompt_leakage",),
    form.source_marker: ("source_marker",),
    form.refusal: ("refusal",),
    form.phrase_loop: ("repetition",),
    form.sentence_loop: ("repetition",),
    form.letter_loop: ("repetition",),
    form.joined_sources: ("concatenation",),
    form.copied_raw: ("copy",),
    form.copied_synthetic: ("copy",),
    form.continuation: ("continuation",),
    form.lost_facts: ("knowledge_lost",),
    form.invented_facts: ("invention",),
    form.cyrillic: ("wrong_script",),
    form.chinese: ("wrong_script",),
    form.other_language: ("wrong_language",),
    form.control_character: ("control_characters",),
    form.tags: ("markup",),
    form.markdown_line: ("markup",),
    form.nothing: ("empty",),
    form.a_word_or_two: ("too_short",),
    form.essay: ("too_long",),
    form.same_caption: ("same_caption",),
    facts.changed_year: ("invented_number",),
    facts.swapped_name: ("changed_name", "invention"),
    facts.other_colour: ("changed_colour",),
    facts.other_count: ("invented_number",),
    facts.email: ("personal_data",),
    facts.phone_number: ("personal_data",),
    facts.url: ("markup",),
    facts.file_name: ("markup",),
    facts.price: ("invented_number",),
    facts.paraphrased_leak: ("prompt_leakage",),
    facts.said_again: ("restated", "repetition"),
    facts.other_synthetic: ("unsupported", "knowledge_lost"),
    facts.denial: ("denial",),
    facts.diary: ("first_person",),
    facts.advertising: ("addresses_reader",),
    facts.question: ("question",),
    facts.special_token: ("special_token",),
    facts.assistant_talk: ("assistant_talk", "refusal"),
    facts.label: ("assistant_talk",),
    facts.invisible_character: ("control_characters",),
    facts.broken_character: ("broken_text",),
    facts.mojibake: ("broken_text",),
    facts.foreign_sentence: ("wrong_language",),
}


class Planted(NamedTuple):
    """Pairs whose captions have one kind of planted fault, and the right reasons for rejecting these captions."""

    kind: str
    reasons: tuple[str, ...]
    rows: pa.Table


def good_pairs(pairs: list[tuple[str, ...]]) -> list[Pair]:
    """Of the given tuples (raw, synthetic, caption), those whose caption passes validation."""
    reasons = validate_table(as_table(pairs))["reasons"].to_pylist()
    good = [pair for pair, found in zip(pairs, reasons, strict=True) if not found]
    others, synthetics = [caption for _, _, caption in good], [synthetic for _, synthetic, _ in good]
    return [Pair(raw, synthetic, caption, others, synthetics) for raw, synthetic, caption in good]


def corrupted(pairs: list[Pair], rows: int, seed: int = 0) -> Iterator[Planted]:
    """For each kind of fault, plant the fault into the captions of up to ``rows`` pairs."""
    for make, reasons in CORRUPTIONS.items():
        draw = random.Random(f"{seed} {make.__name__}")
        made: list[tuple[str, ...]] = []
        for pair in draw.sample(pairs, len(pairs)):
            caption = make(pair, draw)
            if caption is not None:
                made.append((pair.raw, pair.synthetic, caption))
            if len(made) == rows:
                break
        yield Planted(make.__name__, reasons, as_table(made))


def as_table(pairs: list[tuple[str, ...]]) -> pa.Table:
    names = ("laion_2b", "laion_coco", "capsfusion")
    return pa.table(
        {name: pa.array([pair[column] for pair in pairs], pa.string()) for column, name in enumerate(names)}
    )


def missed(planted: Planted) -> pa.Table:
    """The rows that validation accepts, or rejects only for wrong reasons."""
    judged = validate_table(planted.rows)
    right = set(planted.reasons)
    return judged.filter(pa.array([right.isdisjoint(found) for found in judged["reasons"].to_pylist()], pa.bool_()))
