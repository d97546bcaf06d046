"""Decides from img2dataset's column ``status`` whether an image is gone. Re-LAION's releases also have this column."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

_GONE = ("failed_to_download",)
# An image that could not be resized was downloaded, so it exists.
_THERE = ("success", "failed_to_resize")


def is_gone(status: pa.Array) -> pa.Array:
    """Whether each image is gone, [rows] bool. An image is gone if its download failed. Null for an unknown status."""
    gone = pc.is_in(status, value_set=pa.array(_GONE))
    known = pc.is_in(status, value_set=pa.array(_GONE + _THERE))
    return pc.if_else(known, gone, None)
