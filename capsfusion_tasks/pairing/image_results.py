"""Image results: for each URL, whether its image is gone. An image is gone if img2dataset could not download it.

Planning reads these results. img2dataset writes many result files, and many of them become one batch. A batch has one
data file per bucket, with a hash in place of each URL, and one ``.json`` file. The ``.json`` is written last and lists
the result files of the batch. A batch is valid only for the source that its result files were read from: an address
and file patterns. If a URL has several results, the image counts as existing if at least one result says that it
exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import mmh3
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.pairing.buckets import bucket_numbers, together
from capsfusion_tasks.pairing.columns import Counts, as_type, is_blank, is_text
from capsfusion_tasks.pairing.image_status import is_gone
from capsfusion_tasks.pairing.shard_reader import read_batches
from capsfusion_tasks.pairing.spill import BucketSpill
from capsfusion_tasks.schemas import IMAGE_RESULTS
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.read_ahead import read_ahead
from capsfusion_tasks.staging.storage import Storage

VERSION = 1  # increase this number when a code change gives other results for the same file

_READ_ROWS, _READ_BYTES = 1 << 16, 64 << 20
_SPILLED_ROWS = 1 << 18
_WRITERS = 4  # number of files to write in parallel; on S3 each file takes up to three round trips
_LISTINGS = 10  # maximum listings of ``batches_of``, which lists again if a run has replaced a batch meanwhile
_SPILLED = IMAGE_RESULTS.append(pa.field("file", pa.int32(), nullable=False))  # number of the result file


@dataclass(frozen=True)
class Batch:
    """The content of a batch's ``.json``.

    ``source``: the address and file patterns that the batch was read from. ``files``: id of a result file → its counts.
    """

    name: str
    source: dict[str, Any]
    files: dict[str, Counts]
    buckets: list[str]
    version: int = VERSION

    @property
    def rows(self) -> int:
        return sum(counts.rows for counts in self.files.values())

    @classmethod
    def read(cls, storage: Storage, path: str) -> Batch:
        said = storage.read_json(path)
        return cls(**{**said, "files": {name: Counts(**counts) for name, counts in said["files"].items()}})

    def publish(self, storage: Storage) -> None:
        storage.write_json(layout.image_results_batch(self.name), asdict(self))

    def delete(self, storage: Storage) -> None:
        # Delete the ``.json`` first, so that every batch whose ``.json`` exists also has all its data files.
        paths = (layout.image_results_file(bucket, self.name) for bucket in self.buckets)
        for path in [layout.image_results_batch(self.name), *paths]:
            with suppress(FileNotFoundError):
                storage.delete(path)


def batches_of(storage: Storage, source: Mapping[str, Any]) -> list[Batch]:
    """The batches of image results that are valid for ``source``."""
    for _ in range(_LISTINGS):
        paths = [path for path in storage.files(layout.IMAGE_RESULTS) if path.endswith(".json")]
        try:
            found = [*read_ahead(lambda path: Batch.read(storage, path), paths)]
        except FileNotFoundError:  # since the listing, a run has replaced a batch by a larger one: list again
            continue
        return [batch for batch in found if (batch.source, batch.version) == (source, VERSION)]
    raise NotReadyError(f"the batches in {storage.path(layout.IMAGE_RESULTS)} change all the time: try again later")


def read_results(stream: pa.NativeFile, where: str, buckets: int, number: int, counts: Counts) -> Iterator[pa.Table]:
    """Read a result file into tables for ``publish_batch``. Add its numbers of rows and of dropped rows to ``counts``.

    ``number``: the file's number in its batch. Raises InputError if the file is not Parquet or lacks a column.
    """
    names: dict[str, str] = {}

    def choose(schema: pa.Schema) -> list[str]:
        names.update(_columns(schema, where))
        return list(names.values())

    for batch in read_batches(stream, where, choose, _READ_ROWS, _READ_BYTES):
        url, status = (as_type(batch[names[name]], pa.string()) for name in ("url", "status"))
        rows = pa.table({"url": url, "gone": is_gone(status)})
        named = rows.filter(pc.invert(is_blank(rows["url"])))
        known = named.filter(pc.is_valid(named["gone"]))
        counts.rows += rows.num_rows
        counts.drop("null_url", rows.num_rows - named.num_rows)
        counts.drop("no_status", named.num_rows - known.num_rows)
        columns = {
            "hash": url_hashes(known["url"]),
            "gone": known["gone"],
            "file": pa.repeat(pa.scalar(number, pa.int32()), known.num_rows),
            "bucket": bucket_numbers(known["url"], buckets),
        }
        yield pa.table(columns)


def _columns(schema: pa.Schema, where: str) -> dict[str, str]:
    """Map ``url`` and ``status`` to the names of these columns in the file, which may have capitals."""
    found = {}
    for wanted in ("url", "status"):
        match [name for name in schema.names if name.lower() == wanted]:
            case [name] if is_text(schema.field(name).type):
                found[wanted] = name
            case [name]:
                raise InputError(f"{where}: {name} is {schema.field(name).type}, expected text: replace the file")
            case []:
                raise InputError(
                    f"{where} has no column {wanted}, which img2dataset writes; its columns are"
                    f" {', '.join(schema.names)}: replace the file"
                )
            case several:
                raise InputError(
                    f"{where} has the same column more than once ({' and '.join(several)}): replace the file"
                )
    return found


def url_hashes(urls: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A hash of each URL, [rows] int64: the first 64 bits of MurmurHash3, the same on every machine.

    Two URLs may have the same hash, but this is rare: if all 600 million pairs of LAION-COCO have results, at most 0.02
    pairs are expected to get the result of another URL.
    """
    hashes = b"".join(map(mmh3.hash_bytes, urls.cast(pa.binary()).to_pylist()))
    return np.frombuffer(hashes, "<i8")[::2]


def publish_batch(
    storage: Storage,
    folder: Path,
    source: dict[str, Any],
    tables: Iterable[pa.Table],
    files: Mapping[int, tuple[str, Counts]],
) -> None:
    """Publish the results of several files as a batch. ``folder`` is scratch space.

    ``tables`` come from ``read_results``. ``files``: number of a completely read file → its id and counts. ``files`` is
    used only after the last table, so that the caller can still remove the entries of files that cannot be read to the
    end.
    """
    spill = BucketSpill(folder, _SPILLED)
    for table in together(tables, _SPILLED_ROWS):
        spill.add(table.select(_SPILLED.names), table["bucket"].to_numpy())
    name, numbers = uuid4().hex, pa.array(sorted(files), pa.int32())

    def write(bucket: int) -> str | None:
        spilled = pa.concat_tables(spill.rows(bucket))
        rows = spilled.filter(pc.is_in(spilled["file"], value_set=numbers)).select(IMAGE_RESULTS.names)
        one_each = rows.group_by("hash").aggregate([("gone", "all")]).rename_columns(IMAGE_RESULTS.names)
        if not one_each.num_rows:
            return None
        storage.write_table(
            layout.image_results_file(layout.bucket_name(bucket), name), one_each.sort_by("hash").cast(IMAGE_RESULTS)
        )
        return layout.bucket_name(bucket)

    with ThreadPoolExecutor(_WRITERS) as writers:
        buckets = [bucket for bucket in writers.map(write, spill.buckets()) if bucket]
    if files:
        Batch(name, source, dict(files.values()), buckets).publish(storage)


@dataclass(frozen=True)
class BucketResults:
    """The results for one bucket's URLs, as hashes of the URLs, [n] int64 each.

    ``gone``: the URLs whose images are gone. ``there``: the URLs whose images exist.
    """

    gone: np.ndarray
    there: np.ndarray

    def are_gone(self, pairs: pa.Table) -> np.ndarray:
        """Whether each pair's image is gone, [rows] bool. ``pairs``: ``schemas.FOUND_PAIRS``.

        For a URL without a result, the column ``gone`` of ``pairs`` decides. This column comes from the status in
        LAION's release, which may be outdated.
        """
        gone: np.ndarray = pairs["gone"].fill_null(False).to_numpy().astype(bool)
        if not len(self.gone) and not len(self.there):
            return gone
        asked = url_hashes(pairs["image_url"])
        return (gone | np.isin(asked, self.gone)) & ~np.isin(asked, self.there)


@dataclass(frozen=True)
class ImageResults:
    """Reads the image results in ``batches``, one bucket at a time."""

    storage: Storage
    batches: tuple[Batch, ...] = ()

    def of_bucket(self, bucket: str) -> BucketResults:
        """The results of a bucket. Raises NotReadyError if another run has replaced a batch."""
        paths = [layout.image_results_file(bucket, batch.name) for batch in self.batches if bucket in batch.buckets]
        try:
            tables = [IMAGE_RESULTS.empty_table(), *(self.storage.read_table(path) for path in paths)]
        except FileNotFoundError as error:
            where = self.storage.path(layout.IMAGE_RESULTS)
            raise NotReadyError(f"another run has replaced image results in {where}: try again") from error
        results = pa.concat_tables(tables)
        hashes, gone = results["hash"].to_numpy(), results["gone"].to_numpy().astype(bool)
        return BucketResults(hashes[gone], hashes[~gone])
