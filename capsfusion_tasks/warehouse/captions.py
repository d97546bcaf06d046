"""Looks up captions by their text, for the validation rule that finds captions repeated for many images."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, cast

import psycopg
from sqlalchemy import Connection, text

_NUL = "\x00"

# Compare the MD5 digests, so that PostgreSQL uses their index. Also compare the captions, because different captions
# can have the same digest.
_RAWS = """
    select distinct caption, laion_2b from asked
    join capsfusion.fused_captions on md5(capsfusion)::uuid = md5(caption)::uuid and capsfusion = caption
"""


def raws_by_caption(connection: Connection, captions: Iterable[str]) -> dict[str, set[str]]:
    """For each of ``captions``: the raw captions of all pairs with this accepted caption, under any fusion_id.

    Leaves out captions that no pair has.
    """
    connection.execute(text("create temp table asked (caption text) on commit drop"))
    found: defaultdict[str, set[str]] = defaultdict(set)
    with cast(psycopg.Connection[Any], connection.connection.driver_connection).cursor() as cursor:
        with cursor.copy("copy asked from stdin") as copy:
            for caption in captions:
                if _NUL not in caption:  # no stored caption has a NUL, so such a caption cannot be found
                    copy.write_row((caption,))
        cursor.execute("analyze asked")
        cursor.execute(_RAWS)
        for caption, raw in cursor:
            found[caption].add(raw)
        cursor.execute("drop table asked")
    return dict(found)
