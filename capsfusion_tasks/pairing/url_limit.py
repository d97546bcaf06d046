"""Limits the number of pairs per URL. The URL of a placeholder picture is in very many rows, which form too many pairs.

New rows are the rows of this run's shards, and old rows are those of all other shards. If the old and new rows of a URL
can form more pairs than the limit, no new pairs of the URL are written. Later runs write none either, because buckets
only grow (unless a shard is removed). Earlier runs wrote pairs of the URL only while its rows could form at most as
many pairs as the limit. So no URL gets more pairs than the limit, whatever the order and number of runs. The order of
the runs only decides which pairs of the URL are written.
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import duckdb

from capsfusion_tasks.errors import printable

_KEY = "capsfusion.left_out"  # key in the footer of a pair file; the value counts the pairs that are left out
_SHOWN = 3  # number of URLs that a message names
_URL_SHOWN = 200  # maximum characters of a URL in a message

# Finds the URLs over the limit in the tables ``raw`` (LAION-2B) and ``coco`` (LAION-COCO), which have distinct rows.
_OVER = """
create temp table over_limit as
select
    url, raws, cocos, raws - old_raws as new_raws, cocos - old_cocos as new_cocos,
    raws * cocos - old_raws * old_cocos as new_pairs
from (select url, count(*) as raws, count(*) filter (not is_new) as old_raws from raw group by url)
join (select url, count(*) as cocos, count(*) filter (not is_new) as old_cocos from coco group by url) using (url)
where raws * cocos > {most}
"""
_COUNTED = """
select count(*), coalesce(sum(new_raws), 0), coalesce(sum(new_cocos), 0), coalesce(sum(new_pairs), 0)
from over_limit where new_pairs > 0
"""
_LARGEST = """
select url, raws, cocos, new_pairs from over_limit where new_pairs > 0 order by new_pairs desc, url limit ?
"""
# Delete the rows of the URLs over the limit before the join. With a condition in the join instead, DuckDB might make
# all pairs of these URLs and drop them afterwards.
_LEAVE_OUT = "delete from raw where url in (select url from over_limit)"


@dataclass(frozen=True, order=True)
class Crowd:
    """A URL over the limit, with the number of its new pairs and of its distinct rows on each side."""

    pairs: int
    url: str
    laion_2b: int
    laion_coco: int


@dataclass(frozen=True)
class LeftOut:
    """Counts of what a run leaves out: URLs over the limit, their new rows on each side, and their new pairs.

    Rows with equal texts count once. ``largest``: the URLs with the most pairs.
    """

    urls: int = 0
    laion_2b: int = 0
    laion_coco: int = 0
    pairs: int = 0
    largest: tuple[Crowd, ...] = ()

    @classmethod
    def total(cls, parts: Iterable[LeftOut]) -> LeftOut:
        parts = list(parts)
        return cls(
            urls=sum(part.urls for part in parts),
            laion_2b=sum(part.laion_2b for part in parts),
            laion_coco=sum(part.laion_coco for part in parts),
            pairs=sum(part.pairs for part in parts),
            largest=tuple(heapq.nlargest(_SHOWN, (crowd for part in parts for crowd in part.largest))),
        )

    @classmethod
    def recorded(cls, footer: Mapping[str, str]) -> LeftOut:
        if _KEY not in footer:
            return cls()
        counts = json.loads(footer[_KEY])
        return cls(**{**counts, "largest": tuple(Crowd(**crowd) for crowd in counts["largest"])})

    def as_footer(self) -> dict[str, str]:
        return {_KEY: json.dumps(asdict(self), sort_keys=True)} if self.urls else {}

    @property
    def text(self) -> str:
        """A message about the pairs that were left out. Empty if there are none."""
        if not self.urls:
            return ""
        urls = ", ".join(
            f"{printable(crowd.url[:_URL_SHOWN])} ({crowd.laion_2b} laion_2b rows x {crowd.laion_coco} laion_coco rows)"
            for crowd in self.largest
        )
        return (
            f"left out: {self.pairs} pairs of {self.urls} URLs that have more than CAPSFUSION_URL_PAIRS_MAX pairs each"
            f" ({self.laion_2b} new laion_2b rows, {self.laion_coco} new laion_coco rows); the largest: {urls}"
        )


def leave_out(connection: duckdb.DuckDBPyConnection, most: int) -> LeftOut:
    """Delete from ``raw`` the rows of all URLs that have more than ``most`` pairs in tables ``raw`` and ``coco``."""
    connection.execute(_OVER.format(most=most))
    connection.execute(_LEAVE_OUT)
    [(urls, raws, cocos, pairs)] = connection.execute(_COUNTED).fetchall()
    largest = tuple(Crowd(row[3], *row[:3]) for row in connection.execute(_LARGEST, [_SHOWN]).fetchall())
    return LeftOut(urls, int(raws), int(cocos), int(pairs), largest)
