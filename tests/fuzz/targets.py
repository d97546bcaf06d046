"""The fuzz targets. Each has a strategy for inputs, a check that any input must pass, and inputs that once failed.

A reader must either read a file or raise InputError. In a run, an InputError fails only the shard of the file, while
other errors are retried.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.caption_files import check_target, open_caption_file, write_caption_file
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.prompt import MAX_PROMPT_TOKENS, prompt_tokens
from capsfusion_tasks.fusion.template import PROMPT_TEMPLATE
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.pairing.buckets import split_shard
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.validation.validate import validate_table
from tests.fuzz.damages import PAST, Damage, model_folders
from tests.fuzz.environment import ENVIRONMENTS, RUNS, read_environment, run_command
from tests.hostile.captions import CONTROL_TOKENS, HOSTILE


@dataclass(frozen=True)
class Target:
    strategy: st.SearchStrategy[Any]
    holds: Callable[[Any], None]
    past: tuple[Any, ...] = ()
    examples: int = 40  # number of inputs to try in the test suite


# ---- shards ----


def read_shard(content: bytes, side: str = "laion_2b") -> None:
    """Read ``content`` as a shard. It must be refused, or each of its rows must be kept or counted as dropped."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Shard(
            shard_id="s",
            side=side,  # type: ignore[arg-type]
            source="source",
            path="a.parquet",
            etag="1",
            size_bytes=len(content),
            arrived_at=datetime(2026, 11, 10, tzinfo=UTC),
        )
        storage = Storage(f"{folder}/staging")
        settings = load_settings(buckets=2, scratch=f"{folder}/scratch")
        with suppress(InputError), pa.BufferReader(content) as stream:
            counts = split_shard(stream, shard, storage, settings)
            paths = [layout.bucket_file(shard.side, bucket, "s") for bucket in range(2)]
            kept = sum(storage.read_table(path).num_rows for path in paths if storage.exists(path))
            assert kept + sum(counts.dropped.values()) == counts.rows


TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int32(), pa.string()))
NUMBER_TYPES = (pa.float32(), pa.float64(), pa.float16(), pa.int8(), pa.uint64(), pa.decimal128(38, 3), pa.null())
OTHER_TYPES = (pa.bool_(), pa.list_(pa.string()), pa.struct([("url", pa.string())]), pa.timestamp("us"), pa.date32())
NAMES = ("URL", "url", "TEXT", "caption", "alt_text", "top_caption", "similarity", "punsafe", "pwatermark", "", "url.x")
VALUES = st.none() | st.text(max_size=8) | st.binary(max_size=8) | st.floats() | st.integers(-(2**70), 2**70)


@st.composite
def tables(draw: st.DrawFn) -> tuple[bytes, str]:
    """A Parquet file with LAION's column names and any types, and its side (raw or synthetic)."""
    rows = draw(st.integers(0, 6))
    arrays, names = [], []
    for _ in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from((*TEXT_TYPES, *TEXT_TYPES, *NUMBER_TYPES, *OTHER_TYPES)))
        values = draw(st.lists(VALUES, min_size=rows, max_size=rows))
        arrays.append(pa.array([fitting(value, kind) for value in values], kind))
        names.append(draw(st.sampled_from(NAMES)))
    out = io.BytesIO()
    with suppress(pa.ArrowException):  # Arrow cannot write some of these tables
        pq.write_table(pa.table(arrays, names), out, store_schema=draw(st.booleans()))
    return out.getvalue(), draw(st.sampled_from(("laion_2b", "laion_coco")))


def fitting(value: Any, kind: pa.DataType) -> Any:
    """``value`` if the type ``kind`` can hold it, otherwise null."""
    try:
        return pa.array([value], kind)[0].as_py()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None


@cache
def sound_file() -> bytes:
    rows = 40
    table = pa.table(
        {
            "URL": [f"http://a/{n}.jpg" for n in range(rows)],
            "TEXT": [f"A caption {n % 7}" for n in range(rows)],
            "punsafe": [n / rows for n in range(rows)],
            "pwatermark": pa.array([n % 2 for n in range(rows)], pa.int32()),
            "laion_2b": ["a"] * rows,
            "laion_coco": ["b"] * rows,
        }
    )
    out = io.BytesIO()
    pq.write_table(table, out, row_group_size=16, compression="snappy")
    return out.getvalue()


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """A valid Parquet file in which bytes are changed, removed or doubled. Half of the changes are in its footer."""
    content = bytearray(sound_file())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    for _ in range(draw(st.integers(1, 6))):
        start = len(content) - footer if draw(st.booleans()) else 0
        at = draw(st.integers(min(start, len(content) - 1), len(content) - 1))
        change = draw(st.sampled_from(("byte", "bit", "out", "twice")))
        length = draw(st.integers(1, 9))
        if change == "byte":
            content[at] = draw(st.integers(0, 255))
        elif change == "bit":
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "out" and len(content) > length + 20:
            del content[at : at + length]
        else:
            content[at:at] = content[at : at + length]
    return bytes(content)


def read_damaged(content: bytes) -> None:
    read_shard(content)
    read_captions(content, ".parquet")


# ---- caption files ----


def read_captions(content: bytes, suffix: str) -> None:
    """Read ``content`` as a file of captions and write it in another format."""
    with tempfile.TemporaryDirectory() as name, suppress(InputError):
        folder = Path(name)
        (folder / f"in{suffix}").write_bytes(content)
        source = open_caption_file(folder / f"in{suffix}", ["laion_2b", "laion_coco"], adds="capsfusion")
        rows = sum(table.num_rows for table in source.captions(7))
        for target in (".jsonl.gz", ".csv", ".parquet"):
            try:
                check_target(folder / f"out{target}", source)
            except InputError:
                continue
            # The check accepted these rows, so writing them must succeed.
            write_caption_file(folder / f"out{target}", source, ["c"] * rows)
            again = open_caption_file(folder / f"out{target}", ["capsfusion"])
            assert sum(1 for _ in again.rows()) == rows


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {"laion_2b": st.none() | st.text(max_size=6), "laion_coco": st.text(max_size=6)},
        optional={"x": JSON, "\ud800": JSON},
    ),
    max_size=4,
)
BYTES = (b"", b"[", b"]", b"{", b"}", b",", b'"', b"\\u", b"\\ud83d", b"-Infinity", b"\xff", b"\n", b"1e999")
PIECES = st.sampled_from(BYTES)


@st.composite
def json_files(draw: st.DrawFn) -> tuple[bytes, str]:
    """A .json or .jsonl file of rows, with parts cut out or with random pieces of JSON inserted."""
    rows, suffix = draw(ROWS), draw(st.sampled_from((".json", ".jsonl")))
    escaped = draw(st.booleans())
    texts = [json.dumps(row, ensure_ascii=escaped).encode("utf-8", "surrogatepass") for row in rows]
    content = b"[" + b",".join(texts) + b"]" if suffix == ".json" else b"\n".join(texts)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        content = content[:at] + draw(PIECES) + content[at + draw(st.integers(0, 3)) :]
    return content, suffix


@st.composite
def csv_files(draw: st.DrawFn) -> tuple[bytes, str]:
    """A CSV or TSV file of captions, with parts cut out or special characters inserted, sometimes compressed."""
    rows = draw(st.lists(st.lists(st.text(max_size=6), min_size=3, max_size=3), max_size=4))
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([["laion_2b", "laion_coco", draw(st.text(max_size=3))], *rows])
    content = buffer.getvalue().encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        content = gzip.compress(content)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.sampled_from((b"", b'"', b",", b"\n", b"\r", b"\x00", b"\xff")))
        content = content[:at] + piece + content[at + draw(st.integers(0, 3)) :]
    return content, draw(st.sampled_from((".csv", ".tsv")))


PLAIN_TYPES = st.sampled_from(
    (
        *(*TEXT_TYPES, *NUMBER_TYPES, pa.bool_(), pa.binary(3), pa.binary_view(), pa.date32(), pa.date64()),
        *(kind(unit) for kind in (pa.timestamp, pa.duration) for unit in ("ms", "us", "ns")),
        *(pa.timestamp("us", zone) for zone in ("UTC", "Europe/Berlin", "No/Where")),
        *(pa.time32("ms"), pa.time64("ns"), pa.decimal256(70, 2)),
    )
)
ANY_TYPES = st.recursive(
    PLAIN_TYPES,
    lambda inner: (
        inner.map(pa.list_)
        | inner.map(pa.large_list)
        | st.lists(st.tuples(st.text(max_size=2), inner), max_size=3).map(pa.struct)
        | inner.map(lambda kind: pa.map_(pa.string(), kind))
    ),
    max_leaves=3,
)


def values_of(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_struct(kind):
        return st.fixed_dictionaries({field.name: values_of(field.type) for field in kind})
    if pa.types.is_map(kind):
        return st.lists(st.tuples(values_of(kind.key_type), values_of(kind.item_type)), max_size=2)
    if pa.types.is_nested(kind):
        return st.lists(values_of(kind.value_type), max_size=2)
    if pa.types.is_temporal(kind):
        return st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**31), 2**31)
    return VALUES.map(lambda value: fitting(value, kind))


@st.composite
def caption_tables(draw: st.DrawFn) -> bytes:
    """A Parquet file of captions with a column of any type."""
    kind = draw(ANY_TYPES)
    values = draw(st.lists(st.none() | values_of(kind), min_size=1, max_size=4))
    out = io.BytesIO()
    with suppress(pa.ArrowException, OverflowError, ValueError, TypeError):  # the type cannot hold the values
        captions = pa.array(["a"] * len(values))
        table = pa.table({"laion_2b": captions, "laion_coco": captions, "x": pa.array(values, kind)})
        pq.write_table(table, out, store_schema=draw(st.booleans()))
    return out.getvalue()


# ---- texts ----

WORDS = ("Sentence 2:", "New Sentence:", "\n", " ", "U.S.A. ", "1,000.50 ", "a-", "É", "图")
FRAGMENTS = (*HOSTILE, *CONTROL_TOKENS, *WORDS)
TEXTS = st.text(max_size=40) | st.lists(
    st.tuples(st.sampled_from(FRAGMENTS) | st.text(max_size=5), st.sampled_from((1, 1, 1, 2, 50, 2000))), max_size=4
).map(lambda parts: "".join(text * times for text, times in parts)[:100_000])


@cache
def tokenizer() -> LlamaTokenizer:
    return LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model")


def make_prompt(captions: tuple[str, str]) -> None:
    ids = prompt_tokens(tokenizer(), *captions)
    prompt = tokenizer().decode(ids)
    assert len(ids) <= MAX_PROMPT_TOKENS
    assert ids[0] == tokenizer().bos_id
    assert not {tokenizer().bos_id, tokenizer().eos_id} & set(ids[1:])
    assert prompt.count("\n") == PROMPT_TEMPLATE.count("\n")
    assert prompt.endswith("\nNew Sentence:")


def judge(texts: tuple[str, str, str]) -> None:
    names = ("laion_2b", "laion_coco", "capsfusion")
    valid = [text.encode("utf-8", "replace").decode() for text in texts]
    table = pa.table({name: [text] for name, text in zip(names, valid, strict=True)})
    assert validate_table(table)["reasons"].null_count == 0


def fuse_with(found: tuple[str, list[Damage]]) -> None:
    from tests.fuzz import models  # imported late, because torch and transformers take seconds

    models.fuse_with(found)


def file_of(*columns: tuple[str, pa.Array]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table([array for _, array in columns], [name for name, _ in columns]), out)
    return out.getvalue()


TEXT = pa.array(["a"])
ONE_NAME_TWICE = file_of(("URL", TEXT), ("URL", TEXT), ("TEXT", TEXT))

# A footer with a column name that is not UTF-8: pyarrow reads the schema and fails at the name.
NAME_OF_BYTES = file_of(("URL", TEXT), ("TEXT", TEXT)).replace(b"URL", b"U\x85L")

TARGETS = {
    "shards": Target(tables(), lambda file: read_shard(*file), past=((ONE_NAME_TWICE, "laion_2b"),)),
    "damaged-shards": Target(damaged_files(), read_damaged, past=(NAME_OF_BYTES,)),
    "json": Target(json_files(), lambda file: read_captions(*file)),
    "captions": Target(caption_tables(), lambda content: read_captions(content, ".parquet")),
    "csv": Target(csv_files(), lambda file: read_captions(*file)),
    "prompts": Target(st.tuples(TEXTS, TEXTS), make_prompt),
    "model-folders": Target(model_folders(), fuse_with, past=PAST, examples=8),
    "environment": Target(ENVIRONMENTS, read_environment),
    "commands": Target(RUNS, run_command, examples=1),
    "rules": Target(st.tuples(TEXTS, TEXTS, TEXTS), judge),
}
