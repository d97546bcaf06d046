"""Tests which source each word of a caption is attributed to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from capsfusion_tasks.explorer.origins import origins


def test_words_have_the_source_that_has_them() -> None:
    pieces = origins(
        "Elvis Presley, a man with a guitar, performs in 1956.", "ELVIS PRESLEY 1956 guitar", "a man with a guitar"
    )
    assert [piece for piece in pieces if piece[1]] == [
        ("Elvis", "raw"),
        ("Presley", "raw"),
        ("a", "synthetic"),
        ("man", "synthetic"),
        ("with", "synthetic"),
        ("a", "synthetic"),
        ("guitar", "both"),
        ("performs", "novel"),
        ("in", "novel"),
        ("1956", "raw"),
    ]


def test_case_width_and_kind_of_quote_do_not_count() -> None:
    assert origins("Don’t ＳＴＯＰ", "don't", "stop") == [("Don’t", "raw"), (" ", ""), ("ＳＴＯＰ", "synthetic")]


@given(st.text(max_size=60), st.text(max_size=30), st.text(max_size=30))
def test_the_pieces_are_the_caption(caption: str, raw: str, synthetic: str) -> None:
    assert "".join(text for text, _ in origins(caption, raw, synthetic)) == caption
