"""The page of ``capsfusion validate --report``."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pyarrow as pa
import pytest

from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.validation.files import FileVerdicts
from capsfusion_tasks.validation.page import report_page
from capsfusion_tasks.validation.tally import Tally
from capsfusion_tasks.validation.validate import validate_table

HOSTILE = "<script>alert('x')</script> & \"quotes\""


def page(rows: list[tuple[str, str, str]], name: str = "fused.jsonl") -> str:
    columns = ("laion_2b", "laion_coco", "capsfusion")
    table = pa.table({column: pa.array([row[n] for row in rows], pa.string()) for n, column in enumerate(columns)})
    verdicts = FileVerdicts(Tally(examples_max=3))
    verdicts.add(validate_table(table), "capsfusion")
    return report_page(name, verdicts)


class Checker(HTMLParser):
    """Raises where tags do not close in the order in which they opened."""

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
