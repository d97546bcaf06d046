"""Reads the list of a source's files from a web server: JSON, or text with an address or relative path on each line."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated

import httpx2
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.shards import web
from capsfusion_tasks.shards.retries import retrying

_LONGEST = 32 << 20  # bytes; enough for 20,000 signed addresses of S3, or for _MOST_FILES unsigned addresses
_MOST_FILES = 200_000
_BOM = b"\xef\xbb\xbf"
_NOT_IN_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1f]")


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("the time is outside the years 1 to 9999 (UTC)") from error


class Entry(BaseModel):
    """A file in the list. ``arrived_at`` and ``sha256``, if given, replace the values that the file's server sends."""

    model_config = ConfigDict(extra="forbid")

    url: str
    arrived_at: Annotated[AwareDatetime, AfterValidator(_utc)] | None = None
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")


_JSON_LIST = TypeAdapter(Annotated[list[str | Entry], Field(max_length=_MOST_FILES)])


def read_list(client: httpx2.Client, address: web.Address, *, is_json: bool) -> list[Entry]:
    """The entries of the list at ``address``. Raises InputError if the file there is not a list, or is too large."""
    where = address.where
    body = retrying(lambda: _read(client, address), where, on=web.BROKEN).removeprefix(_BOM)
    return _json_entries(body, where) if is_json else _text_entries(body, where)


def _read(client: httpx2.Client, address: web.Address) -> bytes:
    body = bytearray()
    with web.answer(client, "GET", address) as response:
        for chunk in response.iter_bytes():
            if not body and chunk.removeprefix(_BOM).lstrip()[:1] == b"<":
                raise _no_list(address.where, "it is a web page (HTML or XML)")
            if _NOT_IN_TEXT.search(chunk):
                raise _no_list(address.where, "it is not text; give the address of the list, not of a shard")
            body += chunk
            if len(body) > _LONGEST:
                raise _no_list(address.where, f"it is longer than {_LONGEST >> 20} MiB")
    return bytes(body)


def _json_entries(body: bytes, where: str) -> list[Entry]:
    try:
        named = _JSON_LIST.validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = f"entry {first['loc'][0]}: " if first["loc"] else ""
        # No `from error`, because the original error would show signed addresses, which are secret.
        raise _no_list(where, place + first["msg"]) from None
    return [Entry(url=entry) if isinstance(entry, str) else entry for entry in named]


def _text_entries(body: bytes, where: str) -> list[Entry]:
    if body.count(b"\n") > _MOST_FILES:
        raise _no_list(where, f"it has more than {_MOST_FILES:,} lines")
    try:
        lines = [line.strip() for line in body.decode().splitlines()]
    except UnicodeDecodeError as error:
        raise _no_list(where, "it is not UTF-8") from error
    for number, line in enumerate(lines, start=1):
        if len(line.split()) > 1 and not line.startswith("#"):
            shown = line.partition("?")[0][:200]  # do not show the query, which may be a signature
            raise _no_list(where, f"line {number} is not one address, {shown!r}; write %20 for a space in an address")
    return [Entry(url=line) for line in lines if line and not line.startswith("#")]


def _no_list(where: str, problem: str) -> InputError:
    return InputError(
        f"{where} is not a list of files: {problem}; expected an address or relative path on each line, or a .json file"
        ' such as ["a.parquet", {"url": "b.parquet", "arrived_at": "2026-11-10T00:00:00Z", "sha256": "…"}]'
    )
