"""The origin of a caption: the releases (data sets) of its two source captions, and the model that fused them.

The tables of captions do not have the origin. The ledger has it: the sources in ``shards``, the models in ``fusions``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

# Column about a caption's origin → SQL for this column in an export. The view ``captions`` has the same columns, with
# the address of each source. An export may be published, so it has the name of the source's release in place of the
# address. {releases} is a JSON object: MD5 of a source's address → name of its release.
PROVENANCE: dict[str, LiteralString] = {
    "laion_2b_source": "(select {releases}::jsonb ->> md5(source) from shards where shard_id = laion_2b_shard)",
    "laion_coco_source": "(select {releases}::jsonb ->> md5(source) from shards where shard_id = laion_coco_shard)",
    "capsfusion_model": "(select model || coalesce('@' || nullif(model_revision, ''), '') from fusions fusion"
    " where fusion.fusion_id = captions.fusion_id)",
}


@dataclass(frozen=True)
class Origin:
    """The number of captions with the same releases of both source captions and the same licence of the image.

    ``license``: the licence that LAION found for the images, or None if it is unknown.
    """

    laion_2b: str
    laion_coco: str
    license: str | None
    captions: int


def release_names(sources: Iterable[str]) -> dict[str, str]:
    """Address of a source → public name of its release.

    The name does not show in which folder or bucket the user has a copy.

    The name of a data set on the Hugging Face hub is its address. The name of a list of files is the name of its
    folder: "laion" for https://example.org/laion/files.txt. The name of any other source is the last part of its
    address: "laion" for s3://bucket/laion. Equal names get more parts of their addresses until they differ:
    "a/laion" and "b/laion".
    """
    left = {source: _names(source) for source in sources}
    names = {source: next(candidates) for source, candidates in left.items()}
    while equal := {name for name, count in Counter(names.values()).items() if count > 1}:
        # Each round replaces equal names by longer ones. The loop ends, because the longest name of a source is the
        # source itself.
        names = {source: next(left[source], source) if name in equal else name for source, name in names.items()}
    return names


def _names(source: str) -> Iterator[str]:
    """Possible names for the release at ``source``, the shortest first."""
    scheme, _, address = source.rpartition("://")
    if scheme != "hf":
        parts = [part for part in address.split("/") if part]
        is_list = scheme in ("http", "https")
        folders = parts[:-1] if is_list else parts
        yield from ("/".join(folders[-length:]) for length in range(1, len(folders) + 1))
        if is_list:  # the address of a file of URLs: also use the file's name, because a folder can have two such files
            yield from ("/".join(parts[-length:]) for length in range(2, len(parts) + 1))
    yield source


def by_origin(rows: Iterable[dict[str, Any]]) -> list[Origin]:
    """The number of captions of each origin, the most frequent origin first.

    Each of ``rows`` is an origin with a number of captions. Rows with the same origin are added up. A release without a
    name counts as 'unknown'.
    """
    found: Counter[tuple[str, str, str | None]] = Counter()
    for row in rows:
        raw, synthetic = (row[column] or "unknown" for column in ("laion_2b_source", "laion_coco_source"))
        found[raw, synthetic, row["license"]] += row["captions"]
    return [Origin(*origin, captions) for origin, captions in found.most_common()]
