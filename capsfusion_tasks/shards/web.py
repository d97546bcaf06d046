"""Sends HTTP requests for web sources and downloads. Sorts responses into content, temporary failures and refusals."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx2

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.shards.retries import MayPass

# Errors of connections that break, are refused or time out.
BROKEN = (httpx2.TransportError,)
_BUSY = (408, 425, 429)
VARIABLES = "HTTP_PROXY, HTTPS_PROXY, SSL_CERT_FILE"  # environment variables that the HTTP client reads
# At level INFO, httpx2 would log every address, including targets of redirects. But a signed address must stay secret.
logging.getLogger("httpx2").setLevel(logging.WARNING)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


@dataclass(frozen=True)
class Address:
    """The address of a file. ``url`` and ``headers`` may contain secrets, so messages show ``where`` instead."""

    url: str = field(repr=False)
    where: str
    credentials: str  # what an error advises if access is refused
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    auth: httpx2.Auth | None = field(default=None, repr=False)
    gone: str = "check the address, or put the file back"  # what an error advises if the file is gone


def client() -> httpx2.Client:
    """A client that threads can share. It follows redirects, but sends no credentials to another host."""
    try:
        return httpx2.Client(
            follow_redirects=True,
            timeout=httpx2.Timeout(60, connect=10),
            # Accept no compression, because a compressed body would not have the length and the ranges of the file.
            headers={"Accept-Encoding": "identity", "User-Agent": "capsfusion-pipeline"},
        )
    except (OSError, ValueError, httpx2.InvalidURL) as error:
        raise InputError(
            f"cannot make requests by HTTP: {error}; check the environment variables {VARIABLES}"
        ) from error


@contextmanager
def answer(
    client: httpx2.Client,
    method: Literal["GET", "HEAD"],
    address: Address,
    *,
    accept: Collection[int] = (200, 206),
    **headers: str,
) -> Iterator[httpx2.Response]:
    """The response to a request. Its status is already checked, but its body is not read.

    Raises MayPass for a temporary failure, and InputError if a retry will not help.
    """
    headers = {**address.headers, **headers}
    try:
        with client.stream(method, address.url, headers=headers, auth=address.auth) as response:
            if response.status_code not in accept:
                raise _refusal(response, address)
            yield response
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.TooManyRedirects, httpx2.DecodingError) as error:
        raise InputError(f"cannot read {address.where}: {error}") from error


def _refusal(response: httpx2.Response, address: Address) -> Exception:
    status = response.status_code
    if status in _BUSY or status >= 500:
        return MayPass(f"the server answers HTTP {status}", _retry_after(response))
    if status in (401, 403):
        return InputError(f"access to {address.where} is refused (HTTP {status}): {address.credentials}")
    if status in (404, 410):
        return InputError(f"{address.where} is not there (HTTP {status}): {address.gone}")
    if status == 416:
        return InputError(
            f"{address.where} is shorter than when it was discovered: the new file counts as a new shard"
            " of the interval in which it arrived"
        )
    return InputError(f"cannot read {address.where}: the server answers HTTP {status}")


def _retry_after(response: httpx2.Response) -> float | None:
    """The seconds to wait before a retry, from the header Retry-After (seconds or a date). None if it has neither."""
    value = response.headers.get("Retry-After", "")
    if value.isdigit():
        return float(value)
    when = http_date(value)
    return max(0.0, (when - datetime.now(UTC)).total_seconds()) if when else None


def http_date(value: str | None) -> datetime | None:
    """The time in the ``value`` of a header, in UTC. None if the header is missing or is not a date."""
    try:
        when = parsedate_to_datetime(value or "")
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def content_range(response: httpx2.Response) -> tuple[int, int | None]:
    """The file offset at which the response's body begins, and the file's length. None if the length is not given."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not match:
            raise InputError(
                f"{response.url.host} answers a request for a part of a file without a usable header Content-Range:"
                " tell the server's administrator"
            )
        return int(match[1]), int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
