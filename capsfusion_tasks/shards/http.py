"""Shards on a web server. A list on the server names the files."""

from __future__ import annotations

import netrc
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx2
import pyarrow as pa

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.locations import is_hidden
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import retrying
from capsfusion_tasks.shards.source import SourceFile, Unreadable
from capsfusion_tasks.shards.transfer import Expected, fetched
from capsfusion_tasks.shards.web_list import Entry, read_list

_SHA256 = "sha256:"
_CONNECTIONS = 8
_MOST_FAILURES = 3  # with more failed files than this, the whole server counts as down


class HttpSource:
    """The files that a list at ``https://…/list.txt`` or ``….json`` names.

    A file's arrival time is its ``arrived_at`` in a JSON list. If the list gives no ``arrived_at``, the arrival time is
    the file's Last-Modified on the server.

    Credentials are in ~/.netrc, or in the query of a signed address. Queries are not stored, because they may be
    secret. If an address has a query, the stored name of the shard ends in "?", and each read looks up the current
    address in the list. By then, the list may contain a newer signature.
    """

    def __init__(self, uri: str, scratch: Path) -> None:
        try:
            url = httpx2.URL(uri)
        except httpx2.InvalidURL as error:
            raise InputError(f"cannot read shards from {uri.partition('?')[0]}: {error}") from error
        if not url.host:
            raise InputError(
                f"cannot read shards from {_without_query(url)}: it names no host; give https://host/list.txt"
            )
        _refuse_login(url)  # a login in the URI would be stored with each shard
        self._scratch = scratch
        self._list = url
        self.uri = _without_query(url)

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        with web.client() as client, ThreadPoolExecutor(_CONNECTIONS) as pool:
            entries = {path: entry for path, entry in self._entries(client).items() if wanted(path.rstrip("?"))}
            described = {path: pool.submit(self._describe, client, path, entry) for path, entry in entries.items()}
            failures = 0
            for path, future in described.items():
                found = future.result()
                if isinstance(found, NotReadyError):
                    failures += 1
                    if failures > _MOST_FAILURES:
                        pool.shutdown(cancel_futures=True)
                        raise found
                    found = Unreadable(path, str(found), entries[path].arrived_at)
                yield found

    @contextmanager
    def open(self, shard: Shard) -> Iterator[pa.NativeFile]:
        if shard.etag.startswith(_SHA256):
            expected = Expected(shard.size_bytes, checksum=shard.etag.removeprefix(_SHA256))
        else:
            expected = Expected(shard.size_bytes, unchanged=lambda response: _etag(response) == shard.etag)
        with fetched(shard, self._address(self._named(shard.path)), expected, self._scratch) as stream:
            yield stream

    def _named(self, path: str) -> str:
        """The current address of the file whose stored name is ``path``.

        The address may be relative to the address of the list.
        """
        if not path.endswith("?"):
            return path
        with web.client() as client:
            entry = self._entries(client).get(path)
        if entry is None:
            raise InputError(f"{self.uri} does not name {path.rstrip('?')} any more: put it back into the list")
        return entry.url

    def _url(self, relative: str) -> httpx2.URL:
        name = relative.partition("?")[0][:200]
        try:
            url = self._list.join(relative)
        except httpx2.InvalidURL as error:
            raise InputError(f"{self.uri} names {name}: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise InputError(
                f"{self.uri} names {name}, which is no web address: give http or https addresses, or paths relative to"
                " the list"
            )
        _refuse_login(url)
        return url

    def _address(self, relative: str) -> web.Address:
        url = self._url(relative)
        return web.Address(
            url=str(url),
            where=_without_query(url),
            credentials=f"put a login for {url.host} with the right to read it into {_netrc()}",
            auth=_login(),
        )

    def _entries(self, client: httpx2.Client) -> dict[str, Entry]:
        """Stored name → entry of the list. The name of a file in the list's folder is relative to this folder.

        A name with a part such as "..", which would count as hidden, is stored as the address that it leads to. Other
        names are stored as they are, because a shard's id depends on its name.
        """
        address = self._address(str(self._list))
        entries = read_list(client, address, is_json=self._list.path.endswith(".json"))
        folder, found = str(httpx2.URL(self.uri).join(".")), dict[str, Entry]()
        for entry in entries:
            url, relative = self._url(entry.url), entry.url.removeprefix(folder)
            if is_hidden(relative.partition("?")[0]):
                relative = str(url).removeprefix(folder)
            name, mark, _ = relative.partition("?")
            first = found.setdefault(name + mark, entry.model_copy(update={"url": relative}))
            if first.url != relative:
                raise InputError(
                    f"{self.uri} names {name} twice, with different queries (after ?): leave out one of them"
                )
        return {path: found[path] for path in sorted(found)}

    def _describe(self, client: httpx2.Client, path: str, entry: Entry) -> SourceFile | Unreadable | NotReadyError:
        address = self._address(entry.url)

        def ask() -> SourceFile:
            with web.answer(client, "HEAD", address, accept=(200, 403, 405, 501)) as response:
                if response.status_code == 200 and web.content_range(response)[1] is not None:
                    return _described(response, path, entry, address.where)
            # Request one byte with GET, because some servers refuse HEAD requests, or answer them without a length. S3
            # refuses a HEAD request if its address is signed for GET.
            with web.answer(client, "GET", address, Range="bytes=0-0") as response:
                return _described(response, path, entry, address.where)

        try:
            return retrying(ask, address.where, on=web.BROKEN)
        except InputError as error:  # only this file cannot be read, not the whole source
            return Unreadable(path, str(error), entry.arrived_at)
        except NotReadyError as error:
            return error


def _netrc() -> str:
    return os.path.expanduser(os.environ.get("NETRC", "~/.netrc"))


def _login() -> httpx2.Auth | None:
    try:
        return httpx2.NetRCAuth(_netrc()) if os.path.isfile(_netrc()) else None
    except (OSError, UnicodeDecodeError, netrc.NetrcParseError) as error:
        raise InputError(f"cannot read the logins in {_netrc()}: {error}; correct this file") from error


def _refuse_login(url: httpx2.URL) -> None:
    if url.userinfo:
        raise InputError(f"an address at {url.host} contains a password: put the password into ~/.netrc instead")


def _without_query(url: httpx2.URL) -> str:
    return str(url.copy_with(query=None, fragment=None))


def _described(response: httpx2.Response, path: str, entry: Entry, where: str) -> SourceFile:
    arrived: datetime | None = entry.arrived_at or web.http_date(response.headers.get("Last-Modified"))
    if arrived is None:
        raise InputError(
            f"{where} has no Last-Modified, so its arrival time is unknown: "
            "use a .json list that gives arrived_at for each file"
        )
    etag = f"{_SHA256}{entry.sha256}" if entry.sha256 else _etag(response)
    if etag is None:
        raise InputError(
            f"{where} has neither ETag nor Last-Modified: use a .json list that gives sha256 for each file"
        )
    _, size = web.content_range(response)
    if size is None:
        raise InputError(f"{where}: the server does not send the file's length (Content-Length): use another server")
    return SourceFile(path, etag, size, arrived)


def _etag(response: httpx2.Response) -> str | None:
    """The server's ETag. If there is none, a value made of Last-Modified and the length."""
    if etag := response.headers.get("ETag"):
        return str(etag).replace('"', "")
    modified = web.http_date(response.headers.get("Last-Modified"))
    return f"{web.content_range(response)[1]}-{modified.timestamp():.0f}" if modified else None
