"""The paths of all files in the staging area."""

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
    """A file that says that the shard is pulled. It is written after the shard's last bucket file.

    Keys: ``rows``, the number of rows in the shard; ``dropped``, rows by reason; ``buckets``, rows by bucket;
    ``columns``, the names that the shard gives to its columns; ``rules``, those of the pull; ``whole``, false if bucket
    files are broken or being replaced, so that the shard must be pulled again.
    """
    return f"{pulled_folder(side)}/{shard_id}.json"


def lookups_folder(side: Side, bucket: int) -> str:
    """Lookups: copies of a bucket's rows, to find rows by URL.

    Each consists of a ``.json``, a ``.parquet`` and a ``.rows``.
    """
    return f"lookups/{side}/{bucket_name(bucket)}"


def dictionaries_folder(side: Side) -> str:
    return f"lookups/{side}/dictionaries"


def dictionary_file(side: Side, name: str) -> str:
    return f"{dictionaries_folder(side)}/{name}"


IMAGE_RESULTS = "image_results"


def image_results_batch(name: str) -> str:
    """The description of a batch of image results (``pairing/image_results.py``)."""
    return f"{IMAGE_RESULTS}/{name}.json"


def image_results_file(bucket: str, name: str) -> str:
    """The results of one batch for the URLs of one bucket."""
    return f"{IMAGE_RESULTS}/{bucket}/{name}.parquet"


BUCKETS_CONFIG = "buckets/config.json"


def pulled_summary(side: Side) -> str:
    """A summary of the marks of the side's shards (``staging/summaries.py``)."""
    return f"summaries/pulled/{side}"


LISTS_SUMMARY = "summaries/lists"  # a summary of the lists of shards of all intervals


RUNS = "runs"  # a folder for each interval, named by its key
REPLAYS = "replays"  # a folder for each replay, named by its key


def discovered(interval: Interval) -> str:
    return f"runs/{interval.key}/shards.json"


ANY_BUCKET = "any"  # stands for the bucket's number if the bucket of the pairs is unknown


def pairs_folder(work: Interval | Replay) -> str:
    """The folder with the pairs of an interval or of a replay: one file per bucket."""
    return f"{RUNS if isinstance(work, Interval) else REPLAYS}/{work.key}/pairs"


def unit_pairs(unit_id: str) -> str:
    return f"units/{unit_id}/pairs.parquet"


def chunks_folder(unit_id: str) -> str:
    return f"units/{unit_id}/chunks"


def unit_validated(unit_id: str) -> str:
    return f"units/{unit_id}/validated.parquet"
