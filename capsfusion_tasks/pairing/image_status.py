"""Whether an image is gone, by img2dataset's column ``status``. Re-LAION's releases have this column, too."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_GONE = ("failed_to_download",)
# If an image could not be resized, it was downloaded, so it exists.
_THERE = ("success", "failed_to_resize")


def is_gone(status: pa.Array) -> pa.Array:
    """Whether each image is gone, [rows] bool: whether its download failed. Null for an unknown status."""
    gone = pc.is_in(status, value_set=pa.array(_GONE))
    known = pc.is_in(status, value_set=pa.array(_GONE + _THERE))
    return pc.if_else(known, gone, None)
