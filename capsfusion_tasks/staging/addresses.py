"""Refuses storage addresses that contain a password, and opens the file system of an S3 bucket."""

from __future__ import annotations

import os
import re

from pyarrow import fs

from capsfusion_tasks.errors import InputError

_GOOGLE = ("gs", "gcs")


def refuse_credentials(uri: str) -> None:
    """Raise InputError for a URI with a password, like ``s3://key:secret@bucket``. The message omits the password."""
    scheme, separator, rest = uri.partition("://")
    # In ``rest``, a colon before any slash begins a password ("key:secret@bucket"), or a port if only digits and a
    # slash follow ("host:9000/"). The "@" after the password may follow a slash, because S3 secrets can contain slashes
    # and are often not escaped.
    if separator and "@" in rest and re.match(r"[^/@]*:(?!\d+/)", rest):
        raise InputError(
            f"a {scheme}:// address contains a password, which messages and the warehouse would show. Set S3 keys in"
            " AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Write the login of a web server to ~/.netrc"
        )


def remote_filesystem(root: str) -> tuple[fs.FileSystem, str]:
    """The file system of an ``s3://`` address, and the path in it. Raises ValueError for other kinds of addresses.

    Reads the environment variables ``AWS_ENDPOINT_URL`` (the address of an S3-compatible store) and ``AWS_CA_BUNDLE``
    (the certificates to trust), like AWS's own tools. Arrow itself does not read these variables.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    authority = os.environ.get("AWS_CA_BUNDLE") or None
    scheme, _, path = root.partition("://")
    if scheme != "s3":  # Arrow supports other schemes, but no test covers them. Without keys, gs:// hangs for minutes.
        instead = "; set AWS_ENDPOINT_URL=https://storage.googleapis.com and use s3://" if scheme in _GOOGLE else ""
        raise ValueError(f"{scheme}:// is not supported{instead}")
    if not path.partition("/")[0]:
        raise ValueError("the address names no bucket")
    if endpoint or authority:
        return fs.S3FileSystem(endpoint_override=endpoint, tls_ca_file_path=authority), path
    filesystem, base = fs.FileSystem.from_uri(root)
    return filesystem, base
