"""Shards on a web server: a list of files, a URL or relative path per line, or as JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx2
import pyarrow as pa
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import retrying
from capsfusion_tasks.shards.source import SourceFile
from capsfusion_tasks.shards.transfer import Expected, fetched

_SHA256 = "sha256:"
_CONNECTIONS = 8


class _Entry(BaseModel):
    """A file of a JSON list. What it says comes before what the server says."""

    model_config = ConfigDict(extra="forbid")

    url: str
    arrived_at: AwareDatetime | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


_JSON_LIST = TypeAdapter(list[str | _Entry])


class HttpSource:
    """The files that a list at ``https://…/list.txt`` or ``….json`` names.

    A file arrives at its Last-Modified, or at the ``arrived_at`` of a JSON list. Credentials come from ~/.netrc.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        try:
            url = httpx2.URL(uri)
        except httpx2.InvalidURL as error:
            raise InputError(f"cannot read shards from {uri}: {error}") from error
        if url.userinfo:  # the URI is stored with each shard
            raise InputError(f"the list at {url.host} is given with a password: put it into ~/.netrc instead")
        self._scratch = scratch
        self.uri = uri

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
        with web.client() as client, ThreadPoolExecutor(_CONNECTIONS) as pool:
            entries = [entry for entry in self._entries(client) if wanted(entry.url.partition("?")[0])]
            yield from pool.map(lambda entry: self._describe(client, entry), entries)

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        if shard.etag.startswith(_SHA256):
            expected = Expected(shard.size_bytes, checksum=shard.etag.removeprefix(_SHA256))
        else:
            expected = Expected(shard.size_bytes, unchanged=lambda response: _etag(response) == shard.etag)
        with fetched(shard, self._address(shard.path), expected, self._scratch) as stream:
            yield stream

    def _address(self, path: str) -> web.Address:
        url = httpx2.URL(self.uri).join(path)
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        return web.Address(
            url=str(url),
            where=str(url),
            credentials=f"put a login for {url.host} that may read it into {netrc}",
            auth=httpx2.NetRCAuth(str(netrc)) if netrc.is_file() else None,
        )

    def _entries(self, client: httpx2.Client) -> list[_Entry]:
        """The list's files, each once, by their path relative to the list."""
        address = self._address(self.uri)

        def read() -> bytes:
            with web.answer(client, "GET", address) as response:
                return response.read()

        text = retrying(read, self.uri, on=web.BROKEN).decode("utf-8-sig", "replace")
        if httpx2.URL(self.uri).path.endswith(".json"):
            try:
                named = _JSON_LIST.validate_python(json.loads(text))
            except (ValueError, ValidationError) as error:
                raise InputError(
                    f'{self.uri} is no list of files: expected ["a.parquet", {{"url": "b.parquet", "arrived_at": '
                    f'"2026-11-10T00:00:00Z", "sha256": "…"}}]; {str(error).splitlines()[0]}'
                ) from error
            entries = [_Entry(url=entry) if isinstance(entry, str) else entry for entry in named]
        else:
            lines = (line.strip() for line in text.splitlines())
            entries = [_Entry(url=line) for line in lines if line and not line.startswith("#")]
        folder = str(httpx2.URL(self.uri).join("."))
        paths = {(path := entry.url.removeprefix(folder)): entry.model_copy(update={"url": path}) for entry in entries}
        return [paths[path] for path in sorted(paths)]

    def _describe(self, client: httpx2.Client, entry: _Entry) -> SourceFile:
        address = self._address(entry.url)

        def ask() -> SourceFile:
            with web.answer(client, "HEAD", address, accept=(200, 405, 501)) as response:
                if response.status_code == 200 and web.content_range(response)[1] is not None:
                    return _described(response, entry, address.where)
            # Some servers refuse HEAD, others answer it without a length.
            with web.answer(client, "GET", address, Range="bytes=0-0") as response:
                return _described(response, entry, address.where)

        return retrying(ask, address.where, on=web.BROKEN)


def _described(response: httpx2.Response, entry: _Entry, where: str) -> SourceFile:
    arrived: datetime | None = entry.arrived_at or web.http_date(response.headers.get("Last-Modified"))
    if arrived is None:
        raise InputError(
            f"{where} has no Last-Modified, so it belongs to no interval: "
            "use a .json list that gives arrived_at for each file"
        )
    etag = f"{_SHA256}{entry.sha256}" if entry.sha256 else _etag(response)
    if etag is None:
        raise InputError(
            f"{where} has neither ETag nor Last-Modified: use a .json list that gives sha256 for each file"
        )
    _, size = web.content_range(response)
    if size is None:
        raise InputError(f"{where}: the server does not tell its length")
    return SourceFile(entry.url, etag, size, arrived)


def _etag(response: httpx2.Response) -> str | None:
    """The server's ETag; without one, what its Last-Modified and length say."""
    if etag := response.headers.get("ETag"):
        return str(etag).replace('"', "")
    modified = web.http_date(response.headers.get("Last-Modified"))
    return f"{web.content_range(response)[1]}-{modified.timestamp():.0f}" if modified else None
