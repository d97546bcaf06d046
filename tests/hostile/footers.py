"""Makes Parquet files with footers that no writer would write. Footers are in Thrift's compact protocol."""

from __future__ import annotations

_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12
_BYTE_ARRAY, _OPTIONAL, _PLAIN = 6, 1, 0


def vast_file(rows: int, total_bytes: int) -> bytes:
    """A file with the columns URL and TEXT. Its footer claims ``rows`` rows, and ``total_bytes`` bytes per column."""
    columns = [_column(name, rows, total_bytes) for name in (b"URL", b"TEXT")]
    group = _struct((1, _LIST, _list(_STRUCT, columns)), (2, _I64, _int(total_bytes)), (3, _I64, _int(rows)))
    return _file([_group(b"schema", 2), _leaf(b"URL"), _leaf(b"TEXT")], rows, [group])


def nested_file(depth: int) -> bytes:
    """A file with the columns URL and TEXT, and a third column that is nested in ``depth`` groups."""
    schema = [_group(b"schema", 3), _leaf(b"URL"), _leaf(b"TEXT"), *[_group(b"n", 1)] * depth, _leaf(b"end")]
    return _file(schema, 0, [])


def _file(schema: list[bytes], rows: int, groups: list[bytes]) -> bytes:
    footer = _struct(
        (1, _I32, _int(1)),
        (2, _LIST, _list(_STRUCT, schema)),
        (3, _I64, _int(rows)),
        (4, _LIST, _list(_STRUCT, groups)),
    )
    return b"PAR1" + bytes(200) + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def _leaf(name: bytes) -> bytes:
    return _struct((1, _I32, _int(_BYTE_ARRAY)), (3, _I32, _int(_OPTIONAL)), (4, _BINARY, _text(name)))


def _group(name: bytes, children: int) -> bytes:
    return _struct((3, _I32, _int(_OPTIONAL)), (4, _BINARY, _text(name)), (5, _I32, _int(children)))


def _column(name: bytes, values: int, size: int) -> bytes:
    metadata = _struct(
        (1, _I32, _int(_BYTE_ARRAY)),
        (2, _LIST, _list(_I32, [_int(_PLAIN)])),
        (3, _LIST, _list(_BINARY, [_text(name)])),
        (4, _I32, _int(0)),  # not compressed
        (5, _I64, _int(values)),
        (6, _I64, _int(size)),
        (7, _I64, _int(size)),
        (9, _I64, _int(4)),  # offset at which the column's pages begin
    )
    return _struct((2, _I64, _int(4)), (3, _STRUCT, metadata))


def _struct(*fields: tuple[int, int, bytes]) -> bytes:
    out, last = b"", 0
    for number, kind, value in fields:
        out += bytes([(number - last) << 4 | kind]) + value
        last = number
    return out + b"\0"


def _list(kind: int, items: list[bytes]) -> bytes:
    head = bytes([len(items) << 4 | kind]) if len(items) < 15 else bytes([0xF0 | kind]) + _varint(len(items))
    return head + b"".join(items)


def _text(value: bytes) -> bytes:
    return _varint(len(value)) + value


def _int(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])
