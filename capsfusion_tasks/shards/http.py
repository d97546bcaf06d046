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

    A file arrives at its Last-Modified, or at the ``arrived_at`` of a JSON list. Credentials come from ~/.netrc, or are
    an address's query, as a signed one's. A query is no part of a shard's name, which is stored: such a name ends in
    "?", and the list is asked for the address again when the shard is read. It may have been signed anew by then.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        try:
            url = httpx2.URL(uri)
        except httpx2.InvalidURL as error:
            raise InputError(f"cannot read shards from {uri.partition('?')[0]}: {error}") from error
        _refuse_login(url)  # the URI is stored with each shard
        self._scratch = scratch
        self._list = url
        self.uri = _without_query(url)

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile]:
        with web.client() as client, ThreadPoolExecutor(_CONNECTIONS) as pool:
            entries = {path: entry for path, entry in self._entries(client).items() if wanted(path.rstrip("?"))}
            yield from pool.map(lambda path: self._describe(client, path, entries[path]), entries)

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        if shard.etag.startswith(_SHA256):
            expected = Expected(shard.size_bytes, checksum=shard.etag.removeprefix(_SHA256))
        else:
            expected = Expected(shard.size_bytes, unchanged=lambda response: _etag(response) == shard.etag)
        with fetched(shard, self._address(self._named(shard.path)), expected, self._scratch) as stream:
            yield stream

    def _named(self, path: str) -> str:
        """The address, relative to the list's, of the file that is stored as ``path``."""
        if not path.endswith("?"):
            return path
        with web.client() as client:
            entry = self._entries(client).get(path)
        if entry is None:
            raise InputError(f"{self.uri} does not name {path.rstrip('?')} any more: put it back into the list")
        return entry.url

    def _address(self, relative: str) -> web.Address:
        try:
            url = self._list.join(relative)
        except httpx2.InvalidURL as error:
            raise InputError(f"{self.uri} names {relative.partition('?')[0]:.200}: {error}") from error
        _refuse_login(url)
        netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
        return web.Address(
            url=str(url),
            where=_without_query(url),
            credentials=f"put a login for {url.host} that may read it into {netrc}",
            auth=httpx2.NetRCAuth(str(netrc)) if netrc.is_file() else None,
        )

    def _entries(self, client: httpx2.Client) -> dict[str, _Entry]:
        """The list's files by the path that they are stored as: relative to the list, where they lie below it."""
        address = self._address(str(self._list))

        def read() -> bytes:
            with web.answer(client, "GET", address) as response:
                return response.read()

        text = retrying(read, self.uri, on=web.BROKEN).decode("utf-8-sig", "replace")
        if self._list.path.endswith(".json"):
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
        folder, found = str(httpx2.URL(self.uri).join(".")), dict[str, _Entry]()
        for entry in entries:
            relative = entry.url.removeprefix(folder)
            name, mark, _ = relative.partition("?")
            first = found.setdefault(name + mark, entry.model_copy(update={"url": relative}))
            if first.url != relative:
                raise InputError(f"{self.uri} names {name} with two queries, and a query is no part of a shard's name")
        return {path: found[path] for path in sorted(found)}

    def _describe(self, client: httpx2.Client, path: str, entry: _Entry) -> SourceFile:
        address = self._address(entry.url)

        def ask() -> SourceFile:
            with web.answer(client, "HEAD", address, accept=(200, 405, 501)) as response:
                if response.status_code == 200 and web.content_range(response)[1] is not None:
                    return _described(response, path, entry, address.where)
            # Some servers refuse HEAD, others answer it without a length.
            with web.answer(client, "GET", address, Range="bytes=0-0") as response:
                return _described(response, path, entry, address.where)

        return retrying(ask, address.where, on=web.BROKEN)


def _refuse_login(url: httpx2.URL) -> None:
    if url.userinfo:
        raise InputError(f"an address at {url.host} is given with a password: put it into ~/.netrc instead")


def _without_query(url: httpx2.URL) -> str:
    return str(url.copy_with(query=None, fragment=None))


def _described(response: httpx2.Response, path: str, entry: _Entry, where: str) -> SourceFile:
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
    return SourceFile(path, etag, size, arrived)


def _etag(response: httpx2.Response) -> str | None:
    """The server's ETag; without one, what its Last-Modified and length say."""
    if etag := response.headers.get("ETag"):
        return str(etag).replace('"', "")
    modified = web.http_date(response.headers.get("Last-Modified"))
    return f"{web.content_range(response)[1]}-{modified.timestamp():.0f}" if modified else None
