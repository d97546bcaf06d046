"""Tests the HTML page that ``capsfusion validate --report`` writes."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.validation.evidence import evidence
from capsfusion_tasks.validation.files import FileVerdicts
from capsfusion_tasks.validation.page import report_page
from capsfusion_tasks.validation.rules import FLAGS, RULES
from capsfusion_tasks.validation.scores import Fused
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.validate import validate_table

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def page(rows: list[tuple[str, str, str]], name: str = "fused.jsonl") -> str:
    columns = ("laion_2b", "laion_coco", "capsfusion")
    table = pa.table({column: pa.array([row[n] for row in rows], pa.string()) for n, column in enumerate(columns)})
    verdicts = FileVerdicts(Tally(examples_max=3))
    verdicts.add(validate_table(table))
    return report_page(name, verdicts)


class Checker(HTMLParser):
    """Parses HTML. Raises AssertionError if a tag is not closed, or closed in the wrong order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("rows", [[], [("red Mustang", "a car", "A red Mustang is a car")] * 5], ids=["none", "some"])
def test_it_is_one_whole_page_that_asks_no_host(rows: list[tuple[str, str, str]]) -> None:
    text = page(rows)
    assert {"style", "svg", "table"} <= Checker(text).seen
    assert not re.search(r"\b(?:src|href)=|url\(|@import|https?:", text)
    assert "prefers-color-scheme: dark" in text
    for name in SCORES.names:
        assert f"<figcaption>{name}<br>" in text


def test_each_reason_has_its_count_its_meaning_and_examples() -> None:
    cut = ("red Mustang", "a car", "A red Mustang is a car on")
    text = page([cut] * 4 + [("red Mustang", "a car", "A red Mustang is a car.")])
    assert "1 of 5 captions accepted (20.0%)" in text
    assert "<td>truncated</td><td>4</td><td>80.00%</td>" in text
    assert "decoding hit its token limit" in text
    assert text.count("<td>a car</td>") == 3


def test_words_wear_the_colour_of_their_source() -> None:
    text = page([("Rex's red dogs", "a dog in 2 parks", "Rex, the dog, is seen in two")])
    for kind, word in (("raw", "Rex"), ("both", "dog"), ("synthetic", "in"), ("synthetic", "two"), ("novel", "seen")):
        assert f'<span class="{kind}">{word}</span>' in text, word


def test_no_text_gets_out_of_its_place() -> None:
    text = page([(HOSTILE, HOSTILE, HOSTILE + " ends without")], name=HOSTILE)
    assert "<script" not in text
    assert "script" not in Checker(text).seen


@pytest.mark.parametrize(
    ("raw", "synthetic", "caption", "marked"),
    [
        ("red Mustang", "a car", "A red Mustang is a car on the", "on the"),
        ("red Mustang", "a car", "The red Mustang, a car, provides real-world knowledge.", "real-world"),
        ("red Mustang 1967", "a car", "The red Mustang of 1986 is a car.", "1986"),
        ("red Mustang", "a car", "I love the red Mustang, which is a car.", "I love"),
        ("red Mustang", "a car", "The red Mustang, not a boat, is a car.", "not"),
        ("red Mustang $500", "a car", "The red Mustang is a car for sale.", "for sale"),
    ],
)
def test_the_words_that_a_rule_is_about_are_framed(raw: str, synthetic: str, caption: str, marked: str) -> None:
    text = page([(raw, synthetic, caption)])
    framed = [re.sub(r"<[^>]+>", "", part) for part in re.findall(r"<mark>(.*?)</mark>", text)]
    assert marked in framed


def test_every_rule_is_explained_found_or_not() -> None:
    text = page([("red Mustang", "a car", "A red Mustang is a car.")])
    for rule in (*RULES, *FLAGS):
        assert f"<td>{rule.__name__}</td>" in text


@given(st.text(), st.text(), st.text(min_size=1))
def test_evidence_lies_within_the_caption_in_order(raw: str, synthetic: str, caption: str) -> None:
    fused = Fused(raw, synthetic, caption)
    for rule in (*RULES, *FLAGS):
        ends = [place for span in evidence(fused, rule.__name__) for place in span]
        assert ends == sorted(ends)
        assert all(0 <= place <= len(caption) for place in ends)


def test_a_shade_between_two_colours_is_not_marked_where_another_colour_is() -> None:
    caption = "The blue dress is a dress with a green hem and a pink belt."
    fused = Fused("Teal dress, teal belt", "a dress", caption)
    assert [caption[start:end] for start, end in evidence(fused, "changed_colour")] == ["pink"]
