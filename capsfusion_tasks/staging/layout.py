"""The paths of all files in the staging area.

The rows of each side (``laion_2b`` or ``laion_coco``) are split into buckets by a hash of their URL.
"""

from __future__ import annotations

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Replay, Side


def bucket_name(bucket: int) -> str:
    return f"{bucket:05d}"


def bucket_folder(side: Side, bucket: int) -> str:
    return f"buckets/{side}/{bucket_name(bucket)}"


def bucket_file(side: Side, bucket: int, shard_id: str) -> str:
    return f"{bucket_folder(side, bucket)}/{shard_id}.parquet"


def pulled_folder(side: Side) -> str:
    return f"buckets/{side}/pulled"


def pulled_mark(side: Side, shard_id: str) -> str:
    """The path of the shard's mark: a JSON file about the pull, which splits the shard into one file per bucket.

    The mark is written before the first bucket file, with ``whole`` false, and again after the last bucket file.

    - ``rows``: the number of rows in the shard
    - ``dropped``: the number of dropped rows by reason
    - ``buckets``: the number of rows by bucket, for each bucket that may have a file of the shard
    - ``columns``: the name that each column has in the shard
    - ``rules``: the settings of the pull (``pull_rules.py``)
    - ``whole``: false while a task writes the bucket files, or if they are broken and the shard must be pulled again
    """
    return f"{pulled_folder(side)}/{shard_id}.json"


def lookups_folder(side: Side, bucket: int) -> str:
    """The folder of a bucket's lookups: copies of the bucket's rows that can be searched by URL.

    A lookup has three files, with the endings ``.json``, ``.parquet`` and ``.rows``.
    """
    return f"lookups/{side}/{bucket_name(bucket)}"


def dictionaries_folder(side: Side) -> str:
    return f"lookups/{side}/dictionaries"


def dictionary_file(side: Side, name: str) -> str:
    return f"{dictionaries_folder(side)}/{name}"


IMAGE_RESULTS = "image_results"


def image_results_batch(name: str) -> str:
    """The file that describes a batch of image results (``pairing/image_results.py``)."""
    return f"{IMAGE_RESULTS}/{name}.json"


def image_results_file(bucket: str, name: str) -> str:
    """The file with those image results of the batch ``name`` whose URLs belong to ``bucket``."""
    return f"{IMAGE_RESULTS}/{bucket}/{name}.parquet"


BUCKETS_CONFIG = "buckets/config.json"


def pulled_summary(side: Side) -> str:
    """The folder of the summary (``staging/summaries.py``) of all marks (see ``pulled_mark``) of a side's shards."""
    return f"summaries/pulled/{side}"


LISTS_SUMMARY = "summaries/lists"  # the folder of the summary that covers the shard lists of all intervals


RUNS = "runs"  # has a folder for each interval (time range of a run), named by the key of the interval
REPLAYS = "replays"  # has a folder for each replay (selection of rejected captions to fuse again), named by its key


def discovered(interval: Interval) -> str:
    return f"runs/{interval.key}/shards.json"


ANY_BUCKET = "any"  # in the name of a file of pairs, stands for the bucket's number if the bucket is unknown


def pairs_folder(work: Interval | Replay) -> str:
    """The folder with the pairs of an interval or of a replay: one file per bucket."""
    return f"{RUNS if isinstance(work, Interval) else REPLAYS}/{work.key}/pairs"


def unit_pairs(unit_id: str) -> str:
    return f"units/{unit_id}/pairs.parquet"


def chunks_folder(unit_id: str) -> str:
    return f"units/{unit_id}/chunks"


def unit_validated(unit_id: str) -> str:
    return f"units/{unit_id}/validated.parquet"
