"""Where a caption comes from: the releases of its two source captions, and the model that fused them.

No row of a caption repeats these texts. The ledger has them: the tables ``shards`` and ``fusions``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, LiteralString

# Column of the view ``captions`` and of exports → its value for a row of ``fused_captions``.
PROVENANCE: dict[str, LiteralString] = {
    "laion_2b_source": "(select source from shards where shard_id = laion_2b_shard)",
    "laion_coco_source": "(select source from shards where shard_id = laion_coco_shard)",
    "capsfusion_model": "(select model || coalesce('@' || nullif(model_revision, ''), '') from fusions fusion"
    " where fusion.fusion_id = captions.fusion_id)",
}


@dataclass(frozen=True)
class Origin:
    """Captions of one origin: the two releases, and the licence that LAION found for the images (None: not known)."""

    laion_2b: str
    laion_coco: str
    license: str | None
    captions: int


def release_name(source: str | None) -> str:
    """The name of a release, for people outside: without the folder or bucket that this copy of it lies in."""
    if not source:
        return "unknown"
    is_on_hub = source.startswith("hf://")
    return source if is_on_hub else source.rstrip("/").rpartition("/")[2]


def by_origin(rows: Iterable[dict[str, Any]]) -> list[Origin]:
    """The origins of counted captions, the most frequent first."""
    found: Counter[tuple[str, str, str | None]] = Counter()
    for row in rows:
        raw, synthetic = (release_name(row[column]) for column in ("laion_2b_source", "laion_coco_source"))
        found[raw, synthetic, row["license"]] += row["captions"]
    return [Origin(*origin, captions) for origin, captions in found.most_common()]
