"""Rows of sample shards, and the pairs in them.

A row that makes no pair carries the reason it must be counted under; a pair that must be found carries its day.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.schemas import Side


@dataclass(frozen=True)
class Row:
    """A row of a shard, before a release's names and types are put on it."""

    side: Side
    day: int  # from 0
    url: str | None
    text: str | None
    synthetic: str | None  # LAION-COCO only
    similarity: float | None
    punsafe: float | None
    pwatermark: float | None
    width: int
    height: int
    dropped: str | None = None  # the reason under which a run must count it
    shard: int | None = None  # which of its day's shards it must lie in (modulo their number); None: any


@dataclass(frozen=True)
class Pair:
    """A pair that a run must find: complete on ``day``, when days run in order."""

    day: int
    url: str
    raw: str
    synthetic: str


@dataclass(frozen=True)
class Case:
    """Rows that belong together, and the pairs that a run must find in them."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()


class Maker:
    """Makes rows of made captions. Each call has a new URL; ``last_day`` is the last on which rows can arrive."""

    def __init__(self, rng: random.Random, last_day: int) -> None:
        self.rng = rng
        self.last_day = last_day
        self._images = 0

    def captions(self) -> MadePair:
        return make_pair(self.rng, "sample")

    def halves(self, day: int, text: Callable[[str], str] = str) -> tuple[Row, Row]:
        """The two rows of an image, raw first: same URL, text and scores, safe and without watermark.

        ``text`` changes the raw caption.
        """
        made, rng = self.captions(), self.rng
        self._images += 1
        raw = Row(
            side="laion_2b",
            day=day,
            url=f"https://images-{rng.randrange(100):02}.example.com/{rng.randrange(16**6):06x}/{self._images:07}.jpg",
            text=text(made.raw),
            synthetic=None,
            similarity=round(rng.uniform(0.28, 0.42), 4),
            punsafe=round(0.45 * rng.random() ** 4, 4),
            pwatermark=round(rng.uniform(0.01, 0.7), 4),
            width=rng.randint(64, 2048),
            height=rng.randint(64, 2048),
        )
        return raw, replace(raw, side="laion_coco", synthetic=made.synthetic)

    def later(self, day: int) -> int:
        """A day after ``day``; the last one where there is none after it."""
        return min(day + self.rng.choice((1, 1, 2)), self.last_day)


def complete(raw: Row, coco: Row) -> Pair:
    """The pair of two halves, on the day of the one that comes last."""
    if not (raw.url and raw.text and coco.synthetic) or raw.dropped or coco.dropped:
        raise ValueError(f"a half makes no pair: {raw}, {coco}")
    if (raw.url, raw.text) != (coco.url, coco.text):
        raise ValueError(f"the halves do not match: {raw}, {coco}")
    return Pair(max(raw.day, coco.day), raw.url, raw.text, coco.synthetic)
