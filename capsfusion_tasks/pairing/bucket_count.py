"""How many hash buckets a staging area has: chosen for the size of its sources once, and fixed from then on."""

from __future__ import annotations

from collections.abc import Callable

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage

# Bytes of a bucket, as the sources' files have them. LAION-2B and LAION-COCO as a whole (540 GB) come to 2,048 buckets,
# half a million files of one MB: more would be mere overhead, and a bucket that is too large for memory is joined in
# several passes.
_BUCKET_BYTES = 64 << 20
_FEWEST, _MOST = 16, 2048


def bucket_count(storage: Storage, settings: Settings, source_bytes: Callable[[], int] | None = None) -> int:
    """The staging area's number of buckets; the first call fixes it, as set or for sources of ``source_bytes``.

    Partners in buckets of different counts would never meet: raises InputError where another number is set than was
    fixed, or where none is fixed and none can be chosen.
    """
    if storage.exists(layout.BUCKETS_CONFIG):
        fixed: int = storage.read_json(layout.BUCKETS_CONFIG)["buckets"]
        if settings.buckets not in ("auto", fixed):
            raise InputError(
                f"the staging area {storage.root} was split into {fixed} buckets and CAPSFUSION_BUCKETS is "
                f"{settings.buckets}: set it to {fixed} or to auto, or choose an empty staging area"
            )
        return fixed
    if settings.buckets != "auto":
        chosen = settings.buckets
    elif source_bytes is not None:
        chosen = choose_bucket_count(source_bytes())
    else:
        raise InputError(f"the staging area {storage.root} has no buckets yet: discover an interval first")
    storage.write_json(layout.BUCKETS_CONFIG, {"buckets": chosen})
    return chosen


def choose_bucket_count(source_bytes: int) -> int:
    """A power of two that fits sources of so many bytes."""
    wanted = -(-source_bytes // _BUCKET_BYTES)
    return min(max(_FEWEST, 1 << (max(1, wanted) - 1).bit_length()), _MOST)
