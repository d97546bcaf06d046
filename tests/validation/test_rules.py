"""Each rule with captions it must reject and honest ones it must not."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.thresholds import RuleSettings
from capsfusion_tasks.validation.rules import FLAGS, RULES, flags, reasons
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
        ("source_marker", "The pumps are glittering, not red as stated in Sentence 2."),
        ("source_marker", "The first sentence is about pumps, the second sentence about red high heels."),
        ("prompt_leakage", "Here is the merged sentence: the So Kate 120 pumps are red."),
        ("prompt_leakage", "In the real world, there are pumps by Christian Louboutin."),
        ("prompt_leakage", "Despite flaws in Sentence Structure, the So Kate 120 pumps are red."),
        ("too_long", GOOD * 5),
        ("refusal", "I'm sorry, but I cannot merge these sentences."),
        ("refusal", "As an AI language model, I see red heels by Christian Louboutin."),
        ("refusal", "Unfortunately, I am unable to combine them."),
        ("repetition", "The Louboutin pumps are very very very very red."),
        ("repetition", "The Louboutin pumps are looooooooooong and red."),
        ("repetition", "The Louboutin pumps are red - - - - - - - - - - - - heels."),
        ("repetition", "The red shoes of the red shoes of the red shoes of the red shoes."),
        ("concatenation", f"{RAW}. {SYNTHETIC}"),
        ("concatenation", f"{SYNTHETIC[:-1]}, and the {RAW}."),
        ("concatenation", f"The {RAW.upper()}, while {SYNTHETIC.lower()}"),
        ("copy", RAW + "."),
        ("copy", SYNTHETIC),
        ("copy", SYNTHETIC.upper().rstrip(".") + "!"),
        ("knowledge_lost", "A pair of sparkling shoes in bright red stands on a white table."),
        ("invention", "The So Kate 120 pumps were worn by Zofia Brandt at the Fenwick Gala in 1987."),
        ("wrong_script", "Туфли Christian Louboutin So Kate 120 стоят на столе."),
        ("wrong_script", "The So Kate 120 glitter pumps are 红色 heels."),
        ("wrong_language", "Die Pumps von Christian Louboutin sind rot und stehen auf einem Tisch mit der Nummer 120."),
        ("wrong_language", "Los zapatos de Christian Louboutin son rojos y están en una mesa con el número 120."),
        ("markup", "The <b>So Kate 120</b> glitter pumps are red high heels."),
        ("markup", "The So Kate 120 glitter pumps &amp; heels are red."),
        ("markup", "The **So Kate 120** glitter pumps are red high heels."),
        ("markup", "The [So Kate 120](https://example.com) glitter pumps are red."),
        ("markup", "- The So Kate 120 glitter pumps are red high heels."),
        ("markup", "The So Kate 120 glitter pumps at https://shoes.example.com are red."),
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
        (
            "a sentence of both sources",
            "Regency 22 inch Double Tier Speed Rail",
            "Three stainless steel trays with wooden handles.",
            "The Regency 22 inch Double Tier Speed Rail features three stainless steel trays with wooden handles.",
        ),
        (
            "a comic that cannot believe it",
            "Roy Lichtenstein: I cant believe it, I forgot to have children",
            "A woman in a comic.",
            'A woman in a comic by Roy Lichtenstein says "I can\'t believe it, I forgot to have children."',
        ),
        (
            "a name that a source says three times",
            "Sam Sam Sam Edelman Ankle Boot",
            "black boots",
            "The Sam Sam Sam Edelman Ankle Boot is a pair of black boots.",
        ),
        (
            "abbreviations written out",
            "Picnic at Batu Layar, NYC - 27th Oct'08 with Sask. Premier",
            "People eat in the grass.",
            "On October 27, 2008, the Saskatchewan Premier was at a Batu Layar picnic in the grass in New York City.",
        ),
        (
            "names in a script of their own are translated",
            "San Ramon, カリフォルニア 94582 アメリカ合衆国",
            "geese near a pond",
            "Geese are near a pond in San Ramon, California, United States, 94582.",
        ),
        (
            "a script and an address that a source has",
            "Картина 5 at www.gallery.example",
            "a painting on a wall",
            "The painting Картина 5 hangs on a wall, see https://www.gallery.example.",
        ),
        (
            "real-world problems",
            "ANSYS Free Simulation for Students",
            "a car in a wind tunnel",
            "ANSYS Free Simulation for Students shows a car in a wind tunnel to solve real-world problems.",
        ),
        ("a lower-case name begins it", "iPhone 6 case", "a phone", "iPhone 6 cases are for a phone."),
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
    judged = [Fused(row["laion_2b"], row["laion_coco"], row["capsfusion_official"]) for row in published_pairs]
    verdicts = [reasons(fused) for fused in judged]
    # The shares that the rules' docstrings state, in rows of 5,000.
    assert Counter(reason for row in verdicts for reason in row) == {
        "prompt_leakage": 218,
        "truncated": 118,
        "continuation": 21,
        "knowledge_lost": 14,
        "repetition": 9,
        "source_marker": 9,
        "invention": 6,
        "concatenation": 2,
        "wrong_language": 1,
        "control_characters": 1,
        "markup": 1,
    }
    assert Counter(flag for fused in judged for flag in flags(fused)) == {"verbatim": 117, "unrelated_sources": 90}
    assert sum(not row for row in verdicts) / len(verdicts) >= 0.88


def test_the_rest_of_a_cut_off_source_is_no_caption() -> None:
    cut = "Glenfiddich 18 year old single malt Scotch"
    assert judge("whisky is sold at the LCBO.", raw="Scotch Whisky from LCBO", synthetic=cut) == ["continuation"]


def test_a_caption_of_many_different_raw_captions_is_rejected() -> None:
    assert reasons(Fused(RAW, SYNTHETIC, GOOD, "stop", raws_with_caption=5)) == []
    assert reasons(Fused(RAW, SYNTHETIC, GOOD, "stop", raws_with_caption=6)) == ["same_caption"]


@pytest.mark.parametrize(
    ("setting", "value", "caption", "reason"),
    [
        ("min_words", 30, GOOD, "too_short"),
        ("max_words", 10, GOOD, "too_long"),
        ("repetition_max", 0.0, "The red heels of the red heels are pumps by Kate, with 120 glitter.", "repetition"),
        ("fact_recall_min", 1.0, "Kate 120 pumps are red high heels.", "knowledge_lost"),
        ("facts_min", 9, "A pair of sparkling shoes in bright red stands on a white table.", "knowledge_lost"),
        ("invented_max", 0, GOOD.replace("white", "Brandt"), "invention"),
        ("same_caption_max", 1, GOOD, "same_caption"),
    ],
)
def test_thresholds_are_settings(setting: str, value: float, caption: str, reason: str) -> None:
    fused = Fused(RAW, SYNTHETIC, caption, "stop", raws_with_caption=2)
    assert (reason in reasons(fused)) != (reason in reasons(fused, RuleSettings(**{setting: value})))


def test_thresholds_reach_other_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings(rules={"max_words": 40}, gate={"drift_max": 3.5})
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings
    assert (load_settings().rules.max_words, load_settings().gate.drift_max) == (40, 3.5)


@pytest.mark.parametrize(
    ("flag", "raw", "synthetic", "caption"),
    [
        (
            "verbatim",
            "Regency Double Tier Rail",
            "three steel trays",
            "The Regency Double Tier Rail has three steel trays.",
        ),
        (
            "unrelated_sources",
            "Introduction to algebra workbook",
            "A jacket on a hanger.",
            "The workbook introduces algebra, while a jacket hangs on a hanger.",
        ),
    ],
)
def test_a_flag_rejects_nothing(flag: str, raw: str, synthetic: str, caption: str) -> None:
    fused = Fused(raw, synthetic, caption, "stop")
    assert flags(fused) == [flag]
    assert reasons(fused) == []
