"""Large samples from small ones: the same rows again, as other images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import mmh3
import pyarrow as pa

from capsfusion_tasks.demo.releases import typed_column

_TABLE_ROWS = 1 << 17


def copies_of(shard: pa.Table, numbers: Iterable[int]) -> Iterator[pa.Table]:
    """The shard's rows once for each of ``numbers``, in tables of about 131,072 rows.

    Copy 0 is the shard itself. In the others every image has another URL and another alt text, and LAION's hash follows
    them; what is missing stays missing.
    """
    held: list[pa.Table] = []
    for number in numbers:
        held.append(_copy(shard, number) if number else shard)
        if sum(table.num_rows for table in held) >= _TABLE_ROWS:
            yield pa.concat_tables(held)
            held = []
    if held:
        yield pa.concat_tables(held)


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
    """The URL with digits that no two copies share, and that compress as badly as those of real URLs."""
    if not url or not url.strip():
        return url
    return f"{url}?id={mmh3.hash_bytes(f'{url} {number}').hex()}"
