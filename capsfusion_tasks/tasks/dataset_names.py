"""Names of shards, folders and tables by OpenLineage's naming rules: a namespace, and a name in the namespace."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import URL

from capsfusion_tasks.warehouse.schema import SCHEMA

_POSTGRES_PORT = "5432"


class DatasetName(NamedTuple):
    namespace: str
    name: str


def file_name(location: str, path: str = "") -> DatasetName:
    """The OpenLineage name of a file.

    On S3, the namespace is ``s3://bucket``, and the name is the key of the object. For a local file, the namespace is
    ``file``, and the name is the absolute path.
    """
    whole = f"{location.rstrip('/')}/{path}" if path else location.rstrip("/")
    scheme, separator, rest = whole.partition("://")
    if not separator or scheme == "file":
        return DatasetName("file", rest if separator else whole)
    authority, _, key = rest.partition("/")
    return DatasetName(f"{scheme}://{authority}", key)


def table_name(url: URL, table: str) -> DatasetName:
    """The namespace and name of a warehouse table: ``postgres://host:port`` and ``database.schema.table``.

    For a server that is reached through a Unix socket, the host is ``localhost``.
    """
    host = url.host or _one(url.query.get("host", ""))
    if not host or host.startswith("/"):
        host = "localhost"
    port = url.port or _one(url.query.get("port", "")) or _POSTGRES_PORT
    return DatasetName(f"postgres://{host}:{port}", f"{url.database}.{SCHEMA}.{table}")


def _one(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else value[0]
