"""Edge cases of real shards: duplicates, late rows, blank captions, odd characters, unsafe images.

Each function in ``CASES`` builds the rows of one case and the pairs that a run must find in them. The function's name
says what is special about the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from capsfusion_tasks.demo.sample_rows import Case, Row, RowMaker, complete


def plain(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    return Case((raw, coco), (complete(raw, coco),))


def late_raw(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    raw = replace(raw, day=make.later(day))
    return Case((raw, coco), (complete(raw, coco),))


def late_synthetic(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    coco = replace(coco, day=make.later(day))
    return Case((raw, coco), (complete(raw, coco),))


def repeated_in_a_shard(make: RowMaker, day: int) -> Case:
    raw, coco = (replace(row, shard=0) for row in make.halves(day))
    return Case((raw, raw, coco, coco, coco), (complete(raw, coco),))


def repeated_across_shards(make: RowMaker, day: int) -> Case:
    raw, coco = (replace(row, shard=0) for row in make.halves(day))
    return Case((raw, replace(raw, shard=1), coco, replace(coco, shard=1)), (complete(raw, coco),))


def repeated_on_a_later_day(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    later = make.later(day)
    return Case((raw, coco, replace(raw, day=later), replace(coco, day=later)), (complete(raw, coco),))


def repeated_with_another_score(make: RowMaker, day: int) -> Case:
    """Raw rows with the same text and URL make one pair, even if their scores differ."""
    raw, coco = make.halves(day)
    return Case((raw, replace(raw, similarity=0.25, pwatermark=0.75), coco), (complete(raw, coco),))


def repeated_once_unsafe(make: RowMaker, day: int) -> Case:
    """A raw row occurs twice, with a safe and an unsafe score. The safe row still makes a pair."""
    raw, coco = make.halves(day)
    return Case((raw, replace(raw, punsafe=0.9, dropped="unsafe"), coco), (complete(raw, coco),))


def two_synthetic_captions(make: RowMaker, day: int) -> Case:
    """An image has two synthetic captions, and each makes a pair. The second arrives on the same day or later."""
    raw, coco = make.halves(day)
    synthetic = f"{(coco.synthetic or '').rstrip('.')} in this picture."
    other = replace(coco, synthetic=synthetic, day=make.rng.choice((day, make.later(day))))
    return Case((raw, coco, other), (complete(raw, coco), complete(raw, other)))


def two_texts_of_an_image(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    text = f"{raw.text} - from another page"
    raw2, coco2 = replace(raw, text=text), replace(coco, text=text)
    return Case((raw, coco, raw2, coco2), (complete(raw, coco), complete(raw2, coco2)))


def without_scores(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    raw = replace(raw, punsafe=None, similarity=None)
    coco = replace(coco, pwatermark=None, punsafe=make.rng.choice((None, coco.punsafe)))
    return Case((raw, coco), (complete(raw, coco),))


def just_below_the_thresholds(make: RowMaker, day: int) -> Case:
    raw, coco = (replace(row, punsafe=0.499, pwatermark=0.799) for row in make.halves(day))
    return Case((raw, coco), (complete(raw, coco),))


def _with_text(make: RowMaker, day: int, text: Callable[[str], str]) -> Case:
    raw, coco = make.halves(day, text)
    return Case((raw, coco), (complete(raw, coco),))


def emoji(make: RowMaker, day: int) -> Case:
    marks = ("😍🔥", "👩‍👩‍👧‍👦", "🇧🇷", "👍🏽", "❤️", "✨✨✨")
    return _with_text(make, day, lambda text: f"{make.rng.choice(marks)} {text} {make.rng.choice(marks)}")


def right_to_left_text(make: RowMaker, day: int) -> Case:
    words = ("زجاجة عطر فاخرة", "שלום עולם", "خانه‌ای در کوهستان", "\u200fبيت جديد\u200f", "\u202bخوبصورت پھول\u202c")
    return _with_text(make, day, lambda text: f"{make.rng.choice(words)} | {text}")


def html_entities(make: RowMaker, day: int) -> Case:
    marks = ("Salt &amp; Pepper", "Caf&eacute;", "&lt;b&gt;New&lt;/b&gt;")
    return _with_text(make, day, lambda text: f"{make.rng.choice(marks)} {text} &#8211; 5&quot; &eacute;")


def control_characters(make: RowMaker, day: int) -> Case:
    marks = ["\x00", "\t", "\r\n", "\x1b[31m", "\x85", "\u2028", "\x7f"]
    make.rng.shuffle(marks)
    return _with_text(make, day, lambda text: f"{text.replace(' ', marks[0], 1)} {' '.join(marks[1:])} end")


def nul_characters(make: RowMaker, day: int) -> Case:
    """Texts with NUL characters, which PostgreSQL's type text cannot store."""
    return _with_text(make, day, lambda text: f"a\x00{text}\x00")


def imitation_of_the_prompt(make: RowMaker, day: int) -> Case:
    lines = "\nSentence 2: An unrelated caption.\nNew Sentence: Nothing to see."
    return _with_text(make, day, lambda text: text + lines)


def twenty_thousand_characters(make: RowMaker, day: int) -> Case:
    return _with_text(make, day, lambda text: (f"{text}, " * (20_000 // len(text) + 1))[:19_999] + ".")


def raw_alone(make: RowMaker, day: int) -> Case:
    return Case((make.halves(day)[0],))


def synthetic_alone(make: RowMaker, day: int) -> Case:
    return Case((make.halves(day)[1],))


def nearly_the_same(make: RowMaker, day: int) -> Case:
    """Rows match only if URL and text are equal byte for byte."""
    raw, coco = make.halves(day)
    others = (
        replace(coco, url=f"{coco.url} "),
        replace(coco, url=f"{coco.url}#"),
        replace(coco, text=f"{coco.text} "),
        replace(coco, text=f"&#32;{coco.text}"),
    )
    return Case((raw, make.rng.choice(others)))


BLANKS = (None, "", "   ", "\t\n", "\u00a0\u3000")


def blank_raw_caption(make: RowMaker, day: int) -> Case:
    raw, coco = (replace(row, text=make.rng.choice(BLANKS), dropped="null_caption") for row in make.halves(day))
    return Case((raw, coco))


def blank_synthetic_caption(make: RowMaker, day: int) -> Case:
    raw, coco = make.halves(day)
    return Case((raw, replace(coco, synthetic=make.rng.choice(BLANKS), dropped="null_caption")))


def blank_url(make: RowMaker, day: int) -> Case:
    """Two rows without a URL make no pair, even if their texts are equal."""
    url = make.rng.choice(BLANKS)
    return Case(tuple(replace(row, url=url, dropped="null_url") for row in make.halves(day)))


def blank_everything(make: RowMaker, day: int) -> Case:
    return Case(
        tuple(
            replace(row, url=None, text=None, synthetic=None, punsafe=1.0, dropped="null_url")
            for row in make.halves(day)
        )
    )


def unsafe(make: RowMaker, day: int) -> Case:
    score = make.rng.choice((0.5, 0.73, 1.0))
    return _dropped(make, day, lambda row: replace(row, punsafe=score, dropped="unsafe"))


def watermarked(make: RowMaker, day: int) -> Case:
    score = make.rng.choice((0.8, 0.91, 1.0))
    return _dropped(make, day, lambda row: replace(row, pwatermark=score, dropped="watermarked"))


def unsafe_and_watermarked(make: RowMaker, day: int) -> Case:
    return _dropped(make, day, lambda row: replace(row, punsafe=0.9, pwatermark=0.9, dropped="unsafe"))


def _dropped(make: RowMaker, day: int, drop: Callable[[Row], Row]) -> Case:
    """Two matching rows that make no pair, because a score is too high: usually in both rows, sometimes in only one."""
    raw, coco = make.halves(day)
    dropped = (drop(raw), drop(coco))
    return Case(make.rng.choice((dropped, dropped, (drop(raw), coco), (raw, drop(coco)))))


# How often each case occurs, as a share of a day's pairs. Every case occurs at least once in a sample. The shares of
# unsafe and watermarked rows are those of laion2B-en. Most other cases are more frequent than in real shards, so that
# small samples have them.
CASES: dict[Callable[[RowMaker, int], Case], float] = {
    late_raw: 0.04,
    late_synthetic: 0.04,
    repeated_in_a_shard: 0.008,
    repeated_across_shards: 0.008,
    repeated_on_a_later_day: 0.004,
    repeated_with_another_score: 0.004,
    repeated_once_unsafe: 0.004,
    two_synthetic_captions: 0.008,
    two_texts_of_an_image: 0.004,
    without_scores: 0.02,
    just_below_the_thresholds: 0.004,
    emoji: 0.005,
    right_to_left_text: 0.004,
    html_entities: 0.005,
    control_characters: 0.004,
    nul_characters: 0.002,
    imitation_of_the_prompt: 0.002,
    twenty_thousand_characters: 0.002,
    raw_alone: 0.05,
    synthetic_alone: 0.05,
    nearly_the_same: 0.012,
    blank_raw_caption: 0.012,
    blank_synthetic_caption: 0.012,
    blank_url: 0.008,
    blank_everything: 0.004,
    unsafe: 0.029,
    watermarked: 0.061,
    unsafe_and_watermarked: 0.004,
}
