"""Converts Arrow columns to values that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError

_OUT_OF_RANGE = "<value out of range"  # Arrow casts a time in an unsupported year to a text with this beginning


def json_values(column: pa.ChunkedArray, name: str, where: str, binary: frozenset[str]) -> list[Any]:
    """The values of ``column`` as JSON values. ``binary``: the paths of leaves (innermost columns) that stay bytes.

    Times and dates become ISO 8601 text, but timestamps have a space instead of the T. Timestamps with a zone are
    converted to UTC and end in Z. Durations become integers in the unit of the column. Bytes of other leaves become
    text. Raises InputError for text that is not UTF-8 and for times out of range. The message starts with ``where``.
    """
    try:
        column.validate(full=True)  # Parquet does not check that a text column contains UTF-8
        for chunk in column.chunks:
            _require_calendar(chunk, name)
        # Cast to UTC first. A direct cast to text fails for time zones that this machine does not know.
        column = column.cast(_mapped(column.type, name, binary, only_zones=True))
        values: list[Any] = column.cast(_mapped(column.type, name, binary)).to_pylist()
    except (pa.ArrowException, ValueError) as error:  # ValueError means that a struct has two fields of the same name
        problem = "has text that is not UTF-8" if "UTF8" in str(error) else "cannot be converted to JSON"
        raise InputError(f"{where}: column {name} {problem} ({error}): drop or convert the column") from error
    return values


def _require_calendar(array: pa.Array, name: str) -> None:
    for _, leaf in leaves(array, name):
        if pa.types.is_timestamp(leaf.type):
            # Cast without the time zone, because a cast with a time zone wraps around for times out of range.
            leaf = leaf.cast(pa.int64()).cast(pa.timestamp(leaf.type.unit))
        elif not pa.types.is_date(leaf.type):
            continue
        if pc.any(pc.starts_with(leaf.cast(pa.string()), _OUT_OF_RANGE)).as_py():
            raise pa.ArrowInvalid("a time is outside the years -32767 to 32767")


def _mapped(kind: pa.DataType, path: str, binary: frozenset[str], *, only_zones: bool = False) -> pa.DataType:
    """Replace the leaf types of ``kind`` with types for JSON. ``only_zones``: change only time zones, to UTC."""

    def inner(child: pa.DataType, name: str) -> pa.DataType:
        return _mapped(child, f"{path}.{name}", binary, only_zones=only_zones)

    types = pa.types
    if isinstance(kind, pa.UuidType):
        return kind
    if isinstance(kind, pa.BaseExtensionType):
        return _mapped(kind.storage_type, path, binary, only_zones=only_zones)
    if types.is_dictionary(kind):
        return _mapped(kind.value_type, path, binary, only_zones=only_zones)
    if types.is_struct(kind):
        return pa.struct([pa.field(field.name, inner(field.type, field.name)) for field in kind])
    if types.is_map(kind):
        return pa.map_(inner(kind.key_type, "key"), inner(kind.item_type, "value"))
    if types.is_fixed_size_list(kind):
        return pa.list_(inner(kind.value_type, "element"), kind.list_size)
    if types.is_large_list(kind) or types.is_large_list_view(kind):
        return pa.large_list(inner(kind.value_type, "element"))
    if types.is_list(kind) or types.is_list_view(kind):
        return pa.list_(inner(kind.value_type, "element"))
    if types.is_null(kind):
        return pa.string()  # Arrow 26 loses values when it casts lists of null to lists of null
    if only_zones:
        return pa.timestamp(kind.unit, "UTC") if types.is_timestamp(kind) and kind.tz is not None else kind
    if types.is_temporal(kind):
        return pa.int64() if types.is_duration(kind) else pa.string()
    if types.is_float16(kind):
        return pa.float32()
    if is_bytes(kind):
        return kind if path in binary else pa.large_string()
    return kind


def is_bytes(kind: pa.DataType) -> bool:
    checks = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return any(check(kind) for check in checks)


def is_text(kind: pa.DataType) -> bool:
    """Whether a caption column may have this type. Arrow's type null is for columns without any value."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)
    # Bytes count as text, because Parquet files of old writers do not say that their bytes are text.
    return any(check(kind) for check in checks) or (is_bytes(kind) and not pa.types.is_fixed_size_binary(kind))


def leaves(array: pa.Array, path: str) -> Iterator[tuple[str, pa.Array]]:
    """The innermost arrays of ``array``, each with its path: ``image.bytes``, ``tags.element``."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        yield from leaves(array.storage, path)
    elif pa.types.is_dictionary(kind):
        yield from leaves(array.dictionary, path)
    elif pa.types.is_struct(kind):
        for number, field in enumerate(kind):
            yield from leaves(pc.struct_field(array, [number]), f"{path}.{field.name}")
    elif pa.types.is_map(kind):
        yield from leaves(array.keys, f"{path}.key")
        yield from leaves(array.items, f"{path}.value")
    elif pa.types.is_nested(kind):
        yield from leaves(array.flatten(), f"{path}.element")
    else:
        yield path, array


def binary_leaves(table: pa.Table) -> frozenset[str]:
    """The paths of the binary leaves (innermost columns) with at least one value that is not UTF-8."""
    found = set()
    for number, name in enumerate(table.column_names):
        for chunk in table[number].chunks:
            for path, leaf in leaves(chunk, name):
                if is_bytes(leaf.type) and path not in found and not _is_utf8(leaf):
                    found.add(path)
    return frozenset(found)


def _is_utf8(array: pa.Array) -> bool:
    try:
        array.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def leaf_types(kind: pa.DataType) -> list[pa.DataType]:
    """The innermost types of ``kind``."""
    return [leaf.type for _, leaf in leaves(pa.array([], kind), "")]
