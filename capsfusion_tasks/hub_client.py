"""Limits how long a request to the Hugging Face hub may wait for an answer.

Modules that send requests to the hub call ``limit_requests`` when they are imported.
"""

from __future__ import annotations

import httpx2
from huggingface_hub import set_client_factory
from huggingface_hub.utils._http import default_client_factory

# Seconds without an answer, after which a request fails: while connecting, for requests that read from the hub, and for
# requests that write to it. The last number is larger, because a commit of many files takes minutes.
_CONNECT, _READ, _WRITE = 10.0, 60.0, 600.0


def limit_requests() -> None:
    """Make huggingface_hub's requests fail if the hub accepts the connection, but does not answer.

    huggingface_hub sets no limit for listings, and would wait for ever.
    """
    set_client_factory(_client)


def _client() -> httpx2.Client:
    """The default client of huggingface_hub, with time limits for requests that otherwise have no limit."""
    client = default_client_factory()
    client.event_hooks = {**client.event_hooks, "request": [*client.event_hooks["request"], _limit]}
    return client


def _limit(request: httpx2.Request) -> None:
    limits = httpx2.Timeout(_READ if request.method in ("GET", "HEAD") else _WRITE, connect=_CONNECT).as_dict()
    chosen = request.extensions.get("timeout", {})
    request.extensions["timeout"] = {
        name: limit if chosen.get(name) is None else chosen[name] for name, limit in limits.items()
    }
