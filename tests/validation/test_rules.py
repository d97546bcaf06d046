"""Each rule with captions it must reject and honest ones it must not."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsfusion_tasks.validation.rules import FLAGS, RULES, reasons
from capsfusion_tasks.validation.scores import Fused, scores

RAW = "Christian Louboutin So Kate 120 glitter pumps"
SYNTHETIC = "A pair of red high heels on a white table."
GOOD = "The Christian Louboutin So Kate 120 glitter pumps are red high heels that stand on a white table."


def judge(caption: str, *, raw: str = RAW, synthetic: str = SYNTHETIC, finish_reason: str | None = "stop") -> list[str]:
    return reasons(Fused(raw, synthetic, caption, finish_reason))


def test_a_good_caption_has_no_reason() -> None:
    assert judge(GOOD) == []
    assert judge(GOOD, finish_reason=None) == []


def test_every_rule_states_its_reason_code_first() -> None:
    for rule in (*RULES, *FLAGS):
        assert rule.__doc__ is not None
        assert rule.__doc__.startswith(f"``{rule.__name__}``: ")


@pytest.mark.parametrize(
    ("reason", "caption"),
    [
        ("empty", ""),
        ("empty", " \n\t "),
        ("too_short", "Red shoes."),
        ("too_short", "A b c"),
        ("too_short", "🎉🎉🎉🎉🎉🎉"),
        ("truncated", "The Christian Louboutin So Kate 120 glitter pumps are red high heels that"),
        ("truncated", "The pumps come in red, black, and"),
        ("truncated", "To wear the pumps, follow these steps:"),
        ("prompt_leakage", "The So Kate 120 pumps provide detailed real-world knowledge and stand on a white table."),
        ("prompt_leakage", "The pumps are glittering, not red as stated in Sentence 2."),
        ("prompt_leakage", "Despite flaws in Sentence Structure, the So Kate 120 pumps are red."),
        ("repetition", "The red shoes of the red shoes of the red shoes of the red shoes."),
        ("concatenation", f"{RAW}. {SYNTHETIC}"),
        ("concatenation", f"The {RAW.upper()} is {SYNTHETIC.lower()}"),
        ("copy", RAW + "."),
        ("copy", SYNTHETIC),
        ("copy", SYNTHETIC.upper().rstrip(".") + "!"),
        ("control_characters", GOOD.replace(" are", "\x00 are")),
        ("control_characters", GOOD.replace(" are", "\nare")),
        ("control_characters", GOOD.replace("Louboutin", "Loub\ufffdtin")),
    ],
)
def test_a_fault_is_rejected_with_its_reason(reason: str, caption: str) -> None:
    assert reason in judge(caption)


@pytest.mark.parametrize(
    ("why", "raw", "synthetic", "caption"),
    [
        (
            "an apology that is printed on a shirt",
            "I'm Sorry Did I Roll My Eyes Out Loud T-Shirt",
            "A black t-shirt with white text.",
            'The black T-shirt says "I\'m Sorry, Did I Roll My Eyes Out Loud" in white text.',
        ),
        (
            "several sentences",
            "Drinking water with cucumber and lemon at lake",
            "A girl drinks from a glass at the beach.",
            "A girl drinks water with cucumber and lemon. She sits at the lake, near the beach.",
        ),
        (
            "a closing quote ends it",
            "Keep Calm poster",
            "a poster on a wall",
            "A poster on the wall reads “Keep Calm.”",
        ),
        (
            "a bracket ends it",
            "White Sox win, photo by Ron Vesely",
            "a ball game",
            "A ball game is won by the Sox. (Photo by Ron Vesely)",
        ),
        ("an emoji follows the end", "Pizza night 🍕", "a pizza", "A hot pizza is served for pizza night. 🍕❤️"),
        ("another script's end of sentence", "北京 故宫", "a palace", "The Forbidden City (北京 故宫) is a palace。"),
        (
            "the phrase stands in a source",
            "Real-World Algebra, Sentence 1 of the book",
            "the cover of a book",
            "The cover of the book Real-World Algebra shows Sentence 1 of it.",
        ),
        (
            "the real world, without the instruction's hyphen",
            "Pokemon IRL",
            "a toy",
            "It is a toy from the real world.",
        ),
        (
            "a name said twice",
            "Artis REIT (Artis)",
            "a company logo",
            "The logo of Artis Real Estate stands above the words that say Artis Real Estate in a blue and grey font.",
        ),
        (
            "one source contains the other",
            "Oxford Handbook of Recruitment",
            "the Oxford Handbook of Recruitment",
            "The Oxford Handbook of Recruitment is a resource for people who hire.",
        ),
        ("sources of two words", "Red dress", "a dress", "The red dress is a dress that is worn in summer."),
        ("the raw caption adds no word", "red heels", "A pair of red heels.", "A pair of red heels."),
        (
            "the synthetic caption adds no word",
            "Heels in red, from Louboutin.",
            "red heels",
            "Heels in red, from Louboutin.",
        ),
        (
            "joined emoji and direction marks",
            "عطر 👩‍👩‍👧",
            "a bottle",
            "The family 👩‍👩‍👧 has a bottle of \u200fعطر\u200e.",
        ),
    ],
)
def test_an_honest_caption_passes(why: str, raw: str, synthetic: str, caption: str) -> None:
    assert judge(caption, raw=raw, synthetic=synthetic) == [], why


def test_a_caption_that_hit_the_token_limit_is_truncated_even_where_it_ends_in_a_full_stop() -> None:
    assert judge(GOOD, finish_reason="length") == ["truncated"]


def test_a_failed_row_has_that_reason_alone() -> None:
    assert judge("", finish_reason="error: out of memory") == ["failed"]


@given(st.text(), st.text(), st.text(), st.none() | st.text())
def test_no_text_makes_a_rule_or_a_score_raise(raw: str, synthetic: str, caption: str, finish: str | None) -> None:
    fused = Fused(raw, synthetic, caption, finish)
    assert set(reasons(fused)) <= {rule.__name__ for rule in RULES}
    assert all(value is None or 0 <= value <= 1 for name, value in scores(fused).items() if name != "caption_words")


@pytest.mark.parametrize("bit", [".", "a ", "\u200d", "sentence ", ".\n", "e\u0301", "\x00"])
def test_a_caption_of_a_hundred_thousand_characters_takes_no_noticeable_time(bit: str) -> None:
    text = bit * (100_000 // len(bit)) + "a"
    start = time.process_time()
    reasons(Fused(text, text, text))
    scores(Fused(text, text, text))
    assert time.process_time() - start < 5


def test_the_published_captions_are_rejected_at_their_measured_shares(published_pairs: list[dict[str, Any]]) -> None:
    verdicts = [
        reasons(Fused(row["laion_2b"], row["laion_coco"], row["capsfusion_official"])) for row in published_pairs
    ]
    found = Counter(reason for row in verdicts for reason in row)
    # The shares that the rules' docstrings state, in rows of 5,000.
    assert found == {
        "prompt_leakage": 238,
        "concatenation": 119,
        "truncated": 118,
        "repetition": 9,
        "control_characters": 1,
    }
    assert sum(not row for row in verdicts) == 4536
