"""Turns boto3's errors into InputError (wrong setting, unreadable object) or NotReadyError (S3 does not answer)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from botocore import exceptions as boto
from botocore.parsers import ResponseParserError

from capsfusion_tasks.errors import InputError, NotReadyError

# Temporary errors. Other errors of boto3, and its ValueErrors, come from the configuration: a retry will not help.
_NO_ANSWER = (
    boto.ConnectionError,
    boto.HTTPClientError,
    boto.IncompleteReadError,
    boto.ChecksumError,
    boto.FlexibleChecksumError,
    boto.MetadataRetrievalError,
    boto.CredentialRetrievalError,
)
_CREDENTIALS = {
    "ExpiredToken": "the session has expired: get new credentials",
    "InvalidAccessKeyId": "S3 does not know this access key: check AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL",
    "InvalidToken": "the session token is not valid: check AWS_SESSION_TOKEN",
    "RequestTimeTooSkewed": "this machine's clock is wrong: set it",
    "SignatureDoesNotMatch": "the secret key does not match the access key: check AWS_SECRET_ACCESS_KEY",
}
ARCHIVED = ("GLACIER", "DEEP_ARCHIVE")


@contextmanager
def explained(where: str, *, is_listing: bool = False, requester_pays: bool = False) -> Iterator[None]:
    """Turn boto3's errors into InputError, or into NotReadyError for temporary failures.

    boto3 itself has already retried after these failures.
    """
    try:
        yield
    except boto.ClientError as error:
        raise _refusal(error, where, is_listing, requester_pays) from error
    except _NO_ANSWER as error:
        raise NotReadyError(f"cannot read {where} now: {error}; check AWS_ENDPOINT_URL, or try again later") from error
    except ResponseParserError as error:
        raise not_s3(where) from error
    except (boto.BotoCoreError, ValueError) as error:
        raise InputError(f"cannot read {where}: {error}; check the AWS_* variables") from error


def _refusal(error: boto.ClientError, where: str, is_listing: bool, requester_pays: bool) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code == "NoSuchBucket":
        return InputError(f"no bucket {where.split('/')[2]} for {where}: check its name and AWS_ENDPOINT_URL")
    if status == 404 and is_listing:
        return InputError(f"no {where} ({code}): check its name and AWS_ENDPOINT_URL")
    if status == 404:
        return InputError(f"{where} is gone: the object was there when the shard was discovered; put it back")
    if status == 412:
        return InputError(
            f"{where} has changed since it was discovered: the new object counts as a new shard of the interval"
            " in which it arrived"
        )
    if status in (301, 307) or code in ("AuthorizationHeaderMalformed", "IllegalLocationConstraintException"):
        return InputError(f"{where} is in another region ({error}): set AWS_DEFAULT_REGION to the bucket's region")
    if status >= 500 or status in (408, 429) or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return NotReadyError(f"S3 cannot serve {where} now: {error}; try again later")
    if code == "InvalidObjectState":
        return archived(where, error.response["Error"].get("StorageClass", "an archive"))
    if code in _CREDENTIALS:
        return InputError(f"access to {where} is refused ({code}): {_CREDENTIALS[code]}")
    if status not in (401, 403):
        return InputError(f"cannot read {where}: {error}")
    found = credentials()
    key = "no credentials (unsigned)" if found is None else f"access key {found.access_key}"
    payer = "" if requester_pays else "; for a requester-pays bucket, set CAPSFUSION_S3_REQUESTER_PAYS=true"
    return InputError(
        f"access to {where} is refused ({code or status}) with {key}: reading needs s3:ListBucket on the bucket and "
        f"s3:GetObject on the objects; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE{payer}"
    )


def not_s3(where: str) -> InputError:
    return InputError(f"cannot read {where}: the answer does not come from S3; check AWS_ENDPOINT_URL")


def archived(where: str, storage_class: str) -> InputError:
    return InputError(
        f"{where} is archived ({storage_class}): restore it, which takes hours (`aws s3api restore-object`), then run"
        " the interval again"
    )


def credentials() -> Any:
    return boto3.session.Session().get_credentials()
