"""Enlarges a sample: repeats its rows with other image URLs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import mmh3
import pyarrow as pa

from capsfusion_tasks.demo.releases import typed_column

_TABLE_ROWS = 1 << 17


def copies_of(shard: pa.Table, numbers: Iterable[int]) -> Iterator[pa.Table]:
    """The shard's rows, repeated for each copy number, in tables of about 131,072 rows.

    Copy 0 is the shard itself. Every other copy has other URLs, alt texts and LAION hashes. Nulls and blanks are kept.
    """
    pending: list[pa.Table] = []
    for number in numbers:
        pending.append(_copy(shard, number) if number else shard)
        if sum(table.num_rows for table in pending) >= _TABLE_ROWS:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)


def _copy(shard: pa.Table, number: int) -> pa.Table:
    names = {name.lower(): name for name in shard.column_names}
    url, text = names["url"], names.get("text") or names["caption"]
    urls = [_other_url(value, number) for value in shard[url].to_pylist()]
    texts = [f"{value} {number}" if value and value.strip() else value for value in shard[text].to_pylist()]
    hashes = [mmh3.hash64(((a or "") + (b or "")).encode())[0] for a, b in zip(urls, texts, strict=True)]
    columns: dict[str, list[Any]] = {url: urls, text: texts, names["hash"]: hashes}
    for name, values in columns.items():
        field = shard.schema.field(name)
        shard = shard.set_column(shard.column_names.index(name), field, typed_column(values, field.type))
    return shard


def _other_url(url: str | None, number: int) -> str | None:
    """A URL that is unique to the copy, and compresses as badly as real URLs."""
    if not url or not url.strip():
        return url
    return f"{url}?id={mmh3.hash_bytes(f'{url} {number}').hex()}"
