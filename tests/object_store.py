"""Starts S3 servers for tests, and uploads, lists and deletes their objects."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer


@contextmanager
def serving(bucket: str) -> Iterator[str]:
    """URI of an empty bucket in a new S3 server. Within the block, AWS's environment variables point to this server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket=bucket)
        yield f"s3://{bucket}"
    server.stop()


def upload(folder: Path, uri: str) -> None:
    """Upload ``folder``'s Parquet files to ``uri``. Objects get the modification times of their files.

    S3 gives an object the time of its upload. So the time is changed in the server's memory afterwards.
    """
    client, (bucket, prefix) = _client(os.environ["AWS_ENDPOINT_URL"]), _parts(uri)
    for file in sorted(path for path in folder.rglob("*.parquet")):
        key = f"{prefix}/{file.relative_to(folder)}"
        client.put_object(Bucket=bucket, Key=key, Body=file.read_bytes())
        stored: Any = s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys[key]
        stored.last_modified = datetime.fromtimestamp(int(file.stat().st_mtime), UTC).replace(tzinfo=None)


def objects(uri: str) -> dict[str, datetime]:
    """All objects under ``uri``: key → LastModified."""
    client, (bucket, prefix) = _client(os.environ["AWS_ENDPOINT_URL"]), _parts(uri)
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=f"{prefix}/")
    return {found["Key"]: found["LastModified"] for page in pages for found in page.get("Contents", ())}


def remove(uri: str) -> None:
    client, (bucket, _) = _client(os.environ["AWS_ENDPOINT_URL"]), _parts(uri)
    for key in objects(uri):
        client.delete_object(Bucket=bucket, Key=key)


@cache
def _client(server: str) -> Any:
    """A client for ``server``. It is made once, because this takes longer than most requests."""
    return boto3.client("s3", endpoint_url=server)


def _parts(uri: str) -> tuple[str, str]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return bucket, prefix
