"""Reads and writes files of the staging area or an export, on a disk or S3. A file appears complete or not at all."""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.locations import absolute_location
from capsfusion_tasks.staging import durable, full_disk
from capsfusion_tasks.staging.addresses import refuse_credentials, remote_filesystem
from capsfusion_tasks.staging.read_ahead import READERS, read_ahead

_S3_ERROR = "AWS Error"  # Arrow's messages about errors of S3 contain this text
# Before its upload to S3, a file with at most this many bytes is kept in memory, and a larger file on disk. The pull of
# a shard keeps four such files at a time.
_IN_MEMORY = 32 << 20
_SUFFIX = ".unpublished"  # a file with this suffix is not finished
_UNPUBLISHED = re.compile(rf"\..+\{_SUFFIX}")


@dataclass(frozen=True)
class StoredFile:
    """A file in a listing. ``modified`` is the time of its last change, by the clock of S3 or of the disk's machine.

    ``unpublished`` is true if a writer has not finished the file.
    """

    path: str
    size: int
    modified: datetime

    @property
    def unpublished(self) -> bool:
        return bool(_UNPUBLISHED.fullmatch(self.path.rpartition("/")[2]))


_Method = TypeVar("_Method", bound=Callable[..., Any])


def _asks(method: _Method) -> _Method:
    """Decorator for methods that call S3: they raise NotReadyError if S3 does not answer or answers with an error."""

    @wraps(method)
    def asking(self: Storage, *arguments: Any, **named: Any) -> Any:
        with self.answering():
            return method(self, *arguments, **named)

    return cast(_Method, asking)


class Storage:
    """Files below ``root``: a folder (its path may begin with ``~``) or ``s3://bucket/prefix``.

    Paths in arguments and results are relative to ``root`` and use "/" as separator.
    """

    def __init__(self, root: str) -> None:
        refuse_credentials(root)  # because messages, manifests and process arguments show the root
        if not root:
            raise InputError("an address is empty: give a folder or s3://bucket/prefix")
        try:
            root = absolute_location(root)
            filesystem, base = remote_filesystem(root) if "://" in root else (fs.LocalFileSystem(), root)
        except (ValueError, OSError) as error:  # Arrow raises ValueError for a bad address
            raise InputError(f"cannot use {root}: {error}; give a folder or s3://bucket/prefix") from error
        self.root = root
        self._local = isinstance(filesystem, fs.LocalFileSystem)
        self.filesystem: fs.FileSystem = fs.SubTreeFileSystem(base, filesystem)
        self._base = base

    def path(self, path: str) -> str:
        """The full path or URI of ``path``, for messages and for other processes."""
        root = self._base if self._local else self.root.rstrip("/")
        return f"{root}/{path}" if path else root

    @property
    def is_local(self) -> bool:
        """Whether the files are on a local or mounted disk. If not, each read is a request to S3."""
        return self._local

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn errors of S3 in the block into NotReadyError. Only for blocks that call ``filesystem`` directly."""
        try:
            yield
        except NotReadyError:
            raise
        except Exception as error:  # an OSError of Arrow, or an error of DuckDB that repeats Arrow's message
            if _S3_ERROR not in str(error):
                raise
            raise NotReadyError(
                f"{self.root} answers with an error: {error}; try again, and if the error stays, check the endpoint"
                " and the credentials"
            ) from error

    @_asks
    def exists(self, path: str) -> bool:
        return bool(self.filesystem.get_file_info(path).type == fs.FileType.File)

    @_asks
    def size(self, path: str) -> int | None:
        """The file's size in bytes. None if the file does not exist."""
        size: int | None = self.filesystem.get_file_info(path).size
        return size

    def files(self, folder: str) -> list[str]:
        """Paths of the files in ``folder`` (not in its subfolders), sorted; [] if the folder does not exist."""
        return list(self.sizes(folder))

    @_asks
    def sizes(self, folder: str) -> dict[str, int]:
        """Sizes in bytes of the files in ``folder`` (not in its subfolders), by path. Leaves out unpublished files."""
        selector = fs.FileSelector(folder, allow_not_found=True)
        infos = self.filesystem.get_file_info(selector)
        files = (info for info in infos if info.type == fs.FileType.File and not info.base_name.startswith("."))
        return dict(sorted((info.path, info.size) for info in files))

    @_asks
    def tree(self, folder: str = "") -> list[StoredFile]:
        """All files in ``folder`` and its subfolders, sorted by path, including unpublished files.

        Empty if the folder does not exist.
        """
        infos = self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True, recursive=True))
        return sorted(_files(infos), key=lambda file: file.path)

    @_asks
    def level(self, folder: str) -> tuple[list[StoredFile], list[str]]:
        """The files in ``folder`` (not in its subfolders), including unpublished ones, and the paths of its subfolders.

        Both are empty if the folder does not exist.
        """
        infos = self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return [*_files(infos)], [info.path for info in infos if info.type == fs.FileType.Directory]

    def stat(self, paths: Iterable[str], readers: int = READERS) -> list[StoredFile]:
        """The files among ``paths`` that exist, in the order of ``paths``. On S3 each path takes one request."""
        return [*_files(read_ahead(self._info, paths, readers))]

    @_asks
    def _info(self, path: str) -> fs.FileInfo:
        return self.filesystem.get_file_info(path)

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in ``folder``, sorted; [] if ``folder`` does not exist."""
        return sorted(path.rpartition("/")[2] for path in self.level(folder)[1])

    @_asks
    def delete(self, *paths: str) -> None:
        """Delete ``paths``, in this order."""
        for path in paths:
            self.filesystem.delete_file(path)
            self._sync_parent(path)

    @_asks
    def delete_folder(self, path: str) -> None:
        """Delete the folder with all its files. Does nothing if the folder does not exist."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(path)
            self._sync_parent(path)

    def _sync_parent(self, path: str) -> None:
        """Sync the folder that contains ``path``, so that a deleted file cannot reappear after a power failure."""
        if self._local:
            durable.sync_folder((Path(self._base) / path).parent)

    @_asks
    def delete_unpublished(self, folder: str) -> None:
        """Delete the unfinished files that killed writers left in ``folder``. No other process may write there."""
        infos = self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        for info in infos:
            if _UNPUBLISHED.fullmatch(info.base_name):
                self.delete(info.path)

    @contextmanager
    def publish(self, path: str) -> Iterator[Any]:
        """Open a binary file that appears under ``path`` when the block ends. If the block raises, no file appears.

        On a disk, the file is written under another name, then renamed and synced, so that it survives a power failure.
        On S3, an upload becomes visible when it is complete. Raises NotReadyError if the disk is full or read-only, or
        if S3 does not answer.
        """
        if not self._local:
            # Upload only when the file is complete. Arrow cannot abort an upload, and completes it even if the block
            # raises. Another S3 client could abort an upload, but would need its own settings for endpoint, region and
            # credentials. Only large exports do not fit in memory and need space in TMPDIR.
            spooled = full_disk.explained(
                Path(tempfile.gettempdir()), self.path(path), "make room there, or set TMPDIR"
            )
            with spooled, ExitStack() as stack:
                spool = stack.enter_context(tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY))
                yield spool
                spool.seek(0)
                self._upload(path, spool, stack.pop_all())
            return
        target = Path(self._base) / path
        with full_disk.explained(target.parent, target.name), durable.replacing(target, suffix=_SUFFIX) as stream:
            yield stream

    def _upload(self, path: str, content: IO[bytes], opened: ExitStack) -> None:
        """Upload all of ``content`` to S3, even if a signal handler raises meanwhile.

        ``opened``: the context of the open file ``content``, which is closed after the upload.
        """

        def upload() -> None:
            with opened, self.answering(), self.filesystem.open_output_stream(path) as stream:
                shutil.copyfileobj(content, stream, 8 << 20)

        # Upload in another thread. If an exception interrupts an upload, Arrow still completes the upload, and so
        # publishes an empty or truncated file. Signal handlers (Ctrl-C, Airflow's timeouts) raise only in the main
        # thread, which waits for the upload.
        with ThreadPoolExecutor(1) as pool:
            pool.submit(upload).result()

    def write_table(self, path: str, table: pa.Table, metadata: dict[str, str] | None = None) -> None:
        """Publish ``table`` as Parquet (zstd), with ``metadata`` in its footer."""
        if metadata:
            added = {key.encode(): value.encode() for key, value in metadata.items()}
            table = table.replace_schema_metadata({**(table.schema.metadata or {}), **added})
        with self.publish(path) as stream:
            pq.write_table(table, stream, compression="zstd")

    def write_tables(
        self,
        path: str,
        schema: pa.Schema,
        tables: Iterable[pa.Table],
        metadata: dict[str, str] | None = None,
        summary: Callable[[], dict[str, str]] = dict,
    ) -> None:
        """Publish ``tables`` as one Parquet file (zstd), a row group per table. Keeps one table in memory at a time.

        ``summary`` is called after the last table and returns more metadata for the footer.
        """
        if metadata:
            schema = schema.with_metadata({**(schema.metadata or {}), **metadata})
        with self.publish(path) as stream, pq.ParquetWriter(stream, schema, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
            writer.add_key_value_metadata(summary())

    @_asks
    def read_table(self, path: str, columns: list[str] | None = None) -> pa.Table:
        """The table in a Parquet file. The table's schema has the metadata of the file's footer."""
        # This takes three requests to S3; pq.read_table would take five.
        with self.filesystem.open_input_file(path) as stream, pq.ParquetFile(stream, pre_buffer=True) as file:
            return file.read(columns)

    @contextmanager
    def random_access(self, path: str) -> Iterator[Callable[[int, int], bytes]]:
        """Yield a function ``(size, offset)`` that reads ``size`` bytes from ``offset``. Threads may share it."""
        if not self._local:
            with self.answering(), self.filesystem.open_input_file(path) as file:
                yield file.read_at
            return
        # To read a hundred bytes, os.pread takes a third of the time that Arrow takes.
        with open(Path(self._base) / path, "rb", buffering=0) as local:
            yield lambda size, offset: os.pread(local.fileno(), size, offset)

    @_asks
    def footer(self, path: str) -> tuple[dict[str, str], int]:
        """The metadata that this class wrote to a Parquet file, and the number of rows. Reads only the footer."""
        with self.filesystem.open_input_file(path) as stream, pq.ParquetFile(stream) as file:
            metadata = {**(file.metadata.metadata or {})}
            metadata.pop(b"ARROW:schema", None)
            return {key.decode(): value.decode() for key, value in metadata.items()}, file.metadata.num_rows

    def write_json(self, path: str, value: Any) -> None:
        with self.publish(path) as stream:
            stream.write(json.dumps(value, indent=1, sort_keys=True, default=str).encode() + b"\n")

    @_asks
    def read_json(self, path: str) -> Any:
        with self.filesystem.open_input_stream(path) as stream:
            content = stream.read()
        try:
            return json.loads(content)
        except ValueError as error:  # not JSON, or not UTF-8
            raise InputError(
                f"{self.path(path)} is damaged: expected JSON, found {len(content)} bytes ({error}). Delete the file,"
                " then run the step that writes it"
            ) from error


def _files(infos: Iterable[fs.FileInfo]) -> Iterator[StoredFile]:
    for info in infos:
        if info.type == fs.FileType.File:
            yield StoredFile(info.path, info.size, info.mtime.astimezone(UTC))
