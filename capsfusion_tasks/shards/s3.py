"""Shards on S3 or an S3-compatible store. Shards are read in byte ranges, without a local copy."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property, partial
from typing import Any

import boto3
import pyarrow as pa
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.retries import retrying
from capsfusion_tasks.shards.s3_errors import ARCHIVED, archived, explained, not_s3
from capsfusion_tasks.shards.source import SourceFile

log = logging.getLogger(__name__)

# Large reads are split into parallel requests, because one S3 connection cannot use the whole network bandwidth.
_PIECE_BYTES = 8 << 20
_CONNECTIONS = 8
_POOL = 4 * _CONNECTIONS  # total connections, enough to read image results from four objects at the same time
_TRIES = 8  # maximum tries of a request, with growing waits
# boto3 itself does not retry if the body of a response breaks off, so these errors are retried here.
_BROKEN_BODY = (boto.IncompleteReadError, boto.ResponseStreamingError, boto.ReadTimeoutError)
_PAYER = {"RequestPayer": "requester"}


class S3Source:
    """Objects below ``s3://bucket/prefix``. An object's arrival time is its LastModified.

    Uses the region, endpoint and credentials of AWS's own tools: AWS_* variables, profiles, a machine's role. Without
    credentials, requests are not signed, which is enough for public buckets. ``requester_pays`` is needed for buckets
    whose owner does not pay for requests.
    """

    def __init__(self, uri: str, *, requester_pays: bool = False) -> None:
        self._bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        if not self._bucket:
            raise InputError(f"{uri} names no bucket: give s3://bucket/prefix")
        prefix = prefix.strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._payer = _PAYER if requester_pays else {}
        self.uri = f"s3://{self._bucket}/{prefix}".rstrip("/")

    @cached_property
    def _client(self) -> Any:
        """boto3's client. Cached, because creating it is as slow as reading a small file. Reuses connections."""
        return _new_client()

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
        with explained(self.uri, is_listing=True, requester_pays=bool(self._payer)):
            client = self._client
            pages = client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, **self._payer
            )
            exists = False
            for page in pages:
                if "Name" not in page:  # S3 always names the bucket in the response to a list request
                    raise not_s3(self.uri)
                for entry in page.get("Contents", ()):
                    exists = True
                    path = entry["Key"].removeprefix(self._prefix)
                    # Skip the empty objects with which web consoles represent folders.
                    if not path.endswith("/") and wanted(path):
                        yield SourceFile(path, entry["ETag"].strip('"'), entry["Size"], entry["LastModified"])
            if not exists and self._prefix:
                raise self._nothing_there(client)

    def _nothing_there(self, client: Any) -> InputError:
        """The error if there is no object below the prefix. In S3, a misspelt prefix looks like an empty prefix."""
        key = self._prefix.rstrip("/")
        if any(sign in key for sign in "*?["):
            return InputError(
                f"{self.uri} is a pattern: name the prefix, and put the pattern into CAPSFUSION_…_INCLUDE"
            )
        found = client.list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1, **self._payer).get("Contents", ())
        if found and found[0]["Key"] == key:
            return InputError(
                f"{self.uri} is an object: name the prefix before it, and put the object's name into"
                " CAPSFUSION_…_INCLUDE"
            )
        return InputError(
            f"no object below {self.uri}/: check the prefix. If shards are still to come, put an empty object with the"
            f" name {self._prefix} into the bucket"
        )

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        where = f"{self.uri}/{shard.path}"
        explain = partial(explained, where, requester_pays=bool(self._payer))
        with explain():
            client = self._client
        # Each request names the ETag. If the object is replaced while it is read, the requests fail, so a shard never
        # has bytes of both objects.
        this = {"Bucket": self._bucket, "Key": self._prefix + shard.path, "IfMatch": f'"{shard.etag}"', **self._payer}

        def piece(start: int, end: int) -> bytes:
            def get() -> bytes:
                body: bytes = client.get_object(**this, Range=f"bytes={start}-{end - 1}")["Body"].read()
                return body

            with explain():
                return retrying(get, where, on=_BROKEN_BODY)

        with explain():
            head = client.head_object(**this)
        if head.get("StorageClass") in ARCHIVED and 'ongoing-request="false"' not in head.get("Restore", ""):
            raise archived(where, head["StorageClass"])
        with (
            ThreadPoolExecutor(_CONNECTIONS) as pool,
            pa.PythonFile(_Ranges(piece, shard.size_bytes, pool), mode="r") as stream,
        ):
            yield stream


class _Ranges(io.RawIOBase):
    """A seekable file that reads ranges of an object. Reads the pieces of a large range in parallel."""

    def __init__(self, piece: Callable[[int, int], bytes], size: int, pool: ThreadPoolExecutor) -> None:
        self._piece, self._size, self._pool, self._position = piece, size, pool, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def read(self, count: int | None = -1) -> bytes:
        start = self._position
        end = self._size if count is None or count < 0 else min(self._size, start + count)
        if start >= end:
            return b""
        starts = range(start, end, _PIECE_BYTES)
        pieces = self._pool.map(self._piece, starts, (min(at + _PIECE_BYTES, end) for at in starts))
        self._position = end
        return b"".join(pieces)


def _new_client() -> Any:
    config = Config(
        retries={"mode": "standard", "total_max_attempts": _TRIES},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=_POOL,
    )
    session = boto3.session.Session()
    if session.get_credentials() is None:
        config = config.merge(Config(signature_version=UNSIGNED))
    # If no region is set, any region works for listing and reading: S3's first response names the bucket's region.
    client = session.client("s3", region_name=session.region_name or "us-east-1", config=config)
    client.meta.events.register("needs-retry.s3", _log_retry)
    return client


def _log_retry(attempts: int, response: tuple[Any, Any] | None, caught_exception: Exception | None, **_: Any) -> None:
    """Log each retry of boto3, because the growing waits can take minutes."""
    status = response[0].status_code if response else None
    if attempts < _TRIES and (caught_exception is not None or (status is not None and status >= 500)):
        reason = caught_exception or f"the answer is {status}"
        log.warning("S3: %s; trying again (try %d of %d)", reason, attempts, _TRIES)
