"""The rows of sample shards, the pairs that a run must find in these rows, and the rows that it must drop."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from capsfusion_tasks.demo.pairs import MadePair, make_pair
from capsfusion_tasks.schemas import Side


@dataclass(frozen=True)
class Row:
    """A row of a shard, before it gets the column names and types of a LAION release."""

    side: Side
    day: int  # number of the day on which the row arrives, from 0
    url: str | None
    text: str | None
    synthetic: str | None  # LAION-COCO only
    similarity: float | None
    punsafe: float | None
    pwatermark: float | None
    width: int
    height: int
    dropped: str | None = None  # the reason for which a run must drop the row
    # Which shard of the day gets the row: a number from 0, modulo the number of shards per day. None: any shard.
    shard: int | None = None


@dataclass(frozen=True)
class Pair:
    """A pair that a run must find on ``day``, if the days run in order."""

    day: int
    url: str
    raw: str
    synthetic: str


@dataclass(frozen=True)
class Case:
    """The rows of one test case, and the pairs that a run must find in them."""

    rows: tuple[Row, ...]
    pairs: tuple[Pair, ...] = ()


class RowMaker:
    """Makes rows from made-up captions, each image with a new URL. Rows arrive on ``last_day`` at the latest."""

    def __init__(self, rng: random.Random, last_day: int) -> None:
        self.rng = rng
        self.last_day = last_day
        self._images = 0

    def captions(self) -> MadePair:
        return make_pair(self.rng, "sample")

    def halves(self, day: int, text: Callable[[str], str] = str) -> tuple[Row, Row]:
        """The LAION-2B row and the LAION-COCO row of a new image. They have the same URL, text and scores.

        The scores are below the thresholds for unsafe and watermarked images. ``text``: function that changes the raw
        caption.
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
        """A random later day: one or two days after ``day``, at most ``last_day``."""
        return min(day + self.rng.choice((1, 1, 2)), self.last_day)


def complete(raw: Row, coco: Row) -> Pair:
    """The pair of two matching rows. A run finds it on the day when the later row arrives."""
    if not (raw.url and raw.text and coco.synthetic) or raw.dropped or coco.dropped:
        raise ValueError(f"a row that makes no pair: {raw}, {coco}")
    if (raw.url, raw.text) != (coco.url, coco.text):
        raise ValueError(f"rows that do not match: {raw}, {coco}")
    return Pair(max(raw.day, coco.day), raw.url, raw.text, coco.synthetic)
