"""Chooses the number of buckets, into which the rows of shards are split by a hash of their URL.

The number is chosen once for a staging area (the storage of intermediate files), from the total size of the source
files or by ``CAPSFUSION_BUCKETS``, and never changes.
"""

from __future__ import annotations

from collections.abc import Callable

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# There is one bucket for this many bytes of source files, but at least ``_FEWEST`` and at most ``_MOST`` buckets.
# LAION-2B and LAION-COCO together (540 GB) get the maximum, 2,048 buckets. Each shard has a file in each bucket, so
# these data make half a million files of 1 MB. More buckets would only add overhead. A bucket that is too large for
# memory is joined in several passes.
_BUCKET_BYTES = 64 << 20
_FEWEST, _MOST = 16, 2048


def bucket_count(storage: Storage, settings: Settings, source_bytes: Callable[[], int] | None = None) -> int:
    """The number of buckets. The first call chooses the number and stores it. Later calls return the stored number.

    The first call takes the number from ``settings.buckets``. If this setting is ``auto``, the first call computes the
    number from the bytes that ``source_bytes`` returns.

    Raises InputError if the setting contradicts the stored number, because shards that are split into different numbers
    of buckets cannot be joined. Also raises InputError if no number is stored, the setting is ``auto`` and
    ``source_bytes`` is None.
    """
    if storage.exists(layout.BUCKETS_CONFIG):
        fixed = _stored(storage)
        if settings.buckets not in ("auto", fixed):
            raise InputError(
                f"the staging area {storage.root} was split into {fixed} buckets, but CAPSFUSION_BUCKETS is "
                f"{settings.buckets}: set the variable to {fixed} or auto, or choose an empty staging area"
            )
        return fixed
    if settings.buckets != "auto":
        chosen = settings.buckets
    elif source_bytes is not None:
        chosen = choose_bucket_count(source_bytes())
    else:
        raise InputError(
            f"the staging area {storage.root} has no buckets yet: run the discover step for an interval first"
        )
    storage.write_json(layout.BUCKETS_CONFIG, {"buckets": chosen})
    return chosen


def _stored(storage: Storage) -> int:
    try:
        fixed: int = storage.read_json(layout.BUCKETS_CONFIG)["buckets"]
    except InputError as error:
        # Do not advise to delete the file, as ``error`` does: a run with another number of buckets would miss pairs.
        raise InputError(
            f'{storage.path(layout.BUCKETS_CONFIG)} is damaged: expected {{"buckets": N}}. Write this text into it,'
            " where N is the number of buckets of the earlier runs: if the last numbered folder in buckets/* is 00015,"
            " N is 16"
        ) from error
    return fixed


def choose_bucket_count(source_bytes: int) -> int:
    """The number of buckets for source files of ``source_bytes`` bytes in total: a power of two."""
    wanted = -(-source_bytes // _BUCKET_BYTES)
    return min(max(_FEWEST, 1 << (max(1, wanted) - 1).bit_length()), _MOST)
