"""Tests shards in an S3 bucket. moto serves as the S3 server."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.s3.models import s3_backends

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.shards import s3
from capsfusion_tasks.shards.discovery import discover
from capsfusion_tasks.shards.patterns import path_filter
from capsfusion_tasks.shards.s3 import S3Source
from capsfusion_tasks.shards.sources import SideSource, opened
from capsfusion_tasks.staging.storage import Storage
from tests.shards.web_server import Fault, File, WebServer

pytestmark = pytest.mark.slow

START = datetime(2026, 11, 10, tzinfo=UTC)
DAY = Interval(start=START, end=START + timedelta(days=1))
NEXT_DAY = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
_numbers = count(1)


class Bucket:
    """A folder of a bucket. ``put`` writes to the S3 server's memory, so that it can choose LastModified."""

    def __init__(self, name: str, prefix: str) -> None:
        self.name, self.prefix, self.uri = name, prefix, f"s3://{name}/{prefix}"

    def put(self, path: str, content: bytes = b"x", arrived: datetime = START) -> None:
        (backend,) = (regions["global"] for _, regions in s3_backends.items())
        key = backend.put_object(self.name, f"{self.prefix}/{path}", content)
        key.last_modified = arrived.replace(tzinfo=None)


@pytest.fixture
def bucket(s3_bucket: str) -> Bucket:
    return Bucket(s3_bucket.removeprefix("s3://"), f"source {next(_numbers)}")


@pytest.fixture
def storage(bucket: Bucket) -> Storage:
    return Storage(f"s3://{bucket.name}/{bucket.prefix}-staging")


def shards_of(bucket: Bucket, storage: Storage, interval: Interval = DAY) -> list[Shard]:
    source = SideSource(S3Source(bucket.uri), path_filter(["*.parquet"], []))
    return discover({"laion_2b": source}, interval, storage)


def parquet(rows: int, **options: Any) -> bytes:
    out = BytesIO()
    pq.write_table(pa.table({"n": range(rows), "text": [f"row {n} " * 5 for n in range(rows)]}), out, **options)
    return out.getvalue()


def test_all_pages_of_a_listing_are_read(bucket: Bucket, storage: Storage) -> None:
    names = [f"part-{n:05d}.parquet" for n in range(2500)]
    for name in names:
        bucket.put(name)
    assert [shard.path for shard in shards_of(bucket, storage)] == names


def test_only_objects_below_the_prefix_that_are_shards_are_found(bucket: Bucket, storage: Storage) -> None:
    for path in ("deep/a.parquet", "notes.txt", "_temporary/0.parquet", "folder.parquet/", "ä &+%.parquet"):
        bucket.put(path, b"12345")
    Bucket(bucket.name, f"{bucket.prefix}-other").put("b.parquet")
    found = shards_of(bucket, storage)
    assert [(shard.path, shard.size_bytes) for shard in found] == [("deep/a.parquet", 5), ("ä &+%.parquet", 5)]
    assert {shard.etag for shard in found} == {hashlib.md5(b"12345").hexdigest()}  # noqa: S324


def test_late_files_fall_into_the_interval_in_which_they_arrived(bucket: Bucket, storage: Storage) -> None:
    bucket.put("m.parquet")
    assert [shard.path for shard in shards_of(bucket, storage)] == ["m.parquet"]
    bucket.put("a.parquet", arrived=DAY.end)  # this name sorts before m.parquet
    bucket.put("z.parquet", arrived=NEXT_DAY.end - timedelta(seconds=1))
    assert [shard.path for shard in shards_of(bucket, storage, NEXT_DAY)] == ["a.parquet", "z.parquet"]
    assert [shard.path for shard in shards_of(bucket, storage)] == ["m.parquet"]


def test_a_changed_object_is_a_new_shard_and_the_old_one_is_refused(bucket: Bucket, storage: Storage) -> None:
    bucket.put("a.parquet", b"old")
    (old,) = shards_of(bucket, storage)
    bucket.put("a.parquet", b"new", arrived=DAY.end)
    (new,) = shards_of(bucket, storage, NEXT_DAY)
    assert new.shard_id != old.shard_id
    with (
        pytest.raises(InputError, match=r"a\.parquet has changed since it was discovered"),
        S3Source(old.source).open(old),
    ):
        pass
    with S3Source(new.source).open(new) as stream:
        assert stream.read() == b"new"


def test_an_object_replaced_while_it_is_read_is_noticed(
    bucket: Bucket, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_PIECE_BYTES", 1000)
    bucket.put("a.parquet", parquet(20_000))
    (shard,) = shards_of(bucket, storage)
    with S3Source(shard.source).open(shard) as stream, pq.ParquetFile(stream) as file:
        bucket.put("a.parquet", parquet(20_001))
        with pytest.raises(InputError, match="has changed since it was discovered"):
            list(file.iter_batches())


def test_large_reads_come_in_pieces_and_fit_together(
    bucket: Bucket, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "_PIECE_BYTES", 10_000)
    content = parquet(20_000, row_group_size=7_000)
    bucket.put("a.parquet", content)
    (shard,) = shards_of(bucket, storage)
    with S3Source(shard.source).open(shard) as stream:
        assert stream.size() == len(content)
        assert stream.read_at(25_000, 5) == content[5:25_005]
        table = pq.ParquetFile(stream).read()
    assert table.equals(pq.read_table(BytesIO(content)))


def test_an_object_that_is_gone_is_named(bucket: Bucket, storage: Storage) -> None:
    bucket.put("a.parquet")
    (shard,) = shards_of(bucket, storage)
    boto3.client("s3").delete_object(Bucket=bucket.name, Key=f"{bucket.prefix}/a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet is gone"), S3Source(shard.source).open(shard):
        pass


def test_a_bucket_that_is_not_there_is_named(s3_bucket: str) -> None:
    with pytest.raises(InputError, match=r"no bucket nowhere for s3://nowhere/x"):
        list(S3Source("s3://nowhere/x").files(lambda path: True))
    with pytest.raises(InputError, match=r"s3:///x names no bucket"):
        S3Source("s3:///x")
    with pytest.raises(InputError, match=r"Invalid bucket name"):
        list(S3Source("s3://No Bucket/x").files(lambda path: True))


@pytest.mark.parametrize(
    ("below", "said"),
    [
        ("-typo", r"no object below s3://\S+ \d+-typo/: check the prefix"),
        ("/a.parquet", r"a\.parquet is an object: name the prefix before it"),
        ("/*.parquet", r"\*\.parquet is a pattern: name the prefix"),
    ],
)
def test_a_prefix_without_an_object_is_refused(bucket: Bucket, below: str, said: str) -> None:
    bucket.put("a.parquet")
    with pytest.raises(InputError, match=said):
        list(S3Source(bucket.uri + below).files(bool))


def test_a_folder_object_makes_an_empty_source(bucket: Bucket) -> None:
    bucket.put("", b"")
    assert list(S3Source(bucket.uri).files(bool)) == []


def test_an_archived_object_fails_with_what_restores_it(bucket: Bucket, storage: Storage) -> None:
    bucket.put("a.parquet", b"12345")
    key = {"Bucket": bucket.name, "Key": f"{bucket.prefix}/a.parquet"}
    client = boto3.client("s3")
    client.put_object(**key, Body=b"12345", StorageClass="GLACIER")
    (backend,) = (regions["global"] for _, regions in s3_backends.items())
    backend.get_object(bucket.name, key["Key"]).last_modified = START.replace(tzinfo=None)
    (shard,) = shards_of(bucket, storage)
    with (
        pytest.raises(InputError, match=r"a\.parquet is archived \(GLACIER\): restore it.*aws s3api restore-object"),
        S3Source(shard.source).open(shard),
    ):
        pass
    client.restore_object(**key, RestoreRequest={"Days": 1})
    with S3Source(shard.source).open(shard) as stream:
        assert stream.read() == b"12345"


def test_whoever_reads_pays_where_that_is_set(web: WebServer, shard_on: Shard) -> None:
    for pays, header in (("false", None), ("true", "requester")):
        web.requests.clear()
        with opened(shard_on, load_settings(laion2b="s3://bucket", s3_requester_pays=pays)) as stream:
            stream.read()
        assert {request.payer for request in web.requests} == {header}
        assert [request.method for request in web.requests] == ["HEAD", "GET"]


@pytest.fixture
def no_credentials(s3_bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    home = tmp_path_factory.mktemp("nobody")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(home / "none"))


def test_a_public_bucket_is_read_without_credentials(bucket: Bucket, no_credentials: None) -> None:
    bucket.put("a.parquet", b"12345")
    source = S3Source(bucket.uri)
    assert [file.path for file in source.files(lambda path: True)] == ["a.parquet"]


def test_a_profile_that_is_not_there_is_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(InputError, match=r"nobody.*check the AWS_"):
        list(S3Source(bucket.uri).files(lambda path: True))


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("AWS_ENDPOINT_URL", "localhost:9000", "Invalid endpoint: localhost:9000; check the AWS_"),
        ("AWS_CONFIG_FILE", "{file}", "Unable to parse config file.*check the AWS_"),
        ("AWS_ENDPOINT_URL", "{web}", "the answer does not come from S3; check AWS_ENDPOINT_URL"),
    ],
)
def test_a_configuration_that_cannot_work_is_named(
    web: WebServer,
    shard_on: Shard,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    said: str,
) -> None:
    (tmp_path / "config").write_text("no configuration")
    web.files["/bucket"] = File(b"<html>not S3</html>")
    monkeypatch.setenv(variable, value.format(file=tmp_path / "config", web=web.url))
    with pytest.raises(InputError, match=said):
        list(S3Source("s3://bucket").files(bool))
    if "web" not in value:
        with pytest.raises(InputError, match=said), opened(shard_on, load_settings(laion2b="s3://bucket")):
            pass


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("InvalidObjectState", r"is archived \(an archive\): restore it"),
        ("ExpiredToken", "the session has expired: get new credentials"),
        ("RequestTimeTooSkewed", "this machine's clock is wrong"),
        ("SignatureDoesNotMatch", "the secret key does not match the access key"),
        ("AccessDenied", "with access key test: reading needs s3:ListBucket .* set CAPSFUSION_S3_REQUESTER_PAYS=true"),
    ],
)
def test_a_refusal_says_what_s3_says(web: WebServer, shard_on: Shard, code: str, said: str) -> None:
    body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
    web.faults["/bucket/a.parquet"] = [Fault(403, body=body)]
    with S3Source("s3://bucket").open(shard_on) as stream, pytest.raises(InputError, match=said):
        stream.read()


def test_a_server_that_does_not_answer_is_worth_another_try(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    with pytest.raises(NotReadyError, match=r"cannot read s3://.*AWS_ENDPOINT_URL"):
        list(S3Source(bucket.uri).files(lambda path: True))


@pytest.fixture
def shard_on(web: WebServer, s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Shard:
    """A shard on a server that fails on demand, and that speaks enough of S3's protocol for boto3."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)
    file = web.files["/bucket/a.parquet"] = File(parquet(1000))
    return Shard(
        shard_id="0",
        side="laion_2b",
        source="s3://bucket",
        path="a.parquet",
        etag=file.tag or "",
        size_bytes=len(file.content),
        arrived_at=START,
    )


def test_a_body_that_breaks_off_is_asked_for_again(web: WebServer, shard_on: Shard, waits: list[float]) -> None:
    web.faults["/bucket/a.parquet"] = [Fault(cut_after=shard_on.size_bytes // 2), Fault(cut_after=0)]
    with S3Source("s3://bucket").open(shard_on) as stream:
        assert stream.read() == web.files["/bucket/a.parquet"].content
    assert (len(web.gets("/bucket/a.parquet")), len(waits)) == (3, 2)


def test_a_503_passes_and_a_403_does_not(
    web: WebServer, shard_on: Shard, waits: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    web.faults["/bucket/a.parquet"] = [Fault(503), Fault(503)]
    with S3Source("s3://bucket").open(shard_on) as stream:
        assert stream.read() == web.files["/bucket/a.parquet"].content
    assert caplog.messages == [f"S3: the answer is 503; trying again (try {n} of 8)" for n in (1, 2)]
    web.requests.clear()
    web.faults["/bucket/a.parquet"] = [Fault(403)]
    with (
        S3Source("s3://bucket").open(shard_on) as stream,
        pytest.raises(InputError, match=r"access to s3://bucket/a\.parquet is refused \(403\) with access key test"),
    ):
        stream.read()
    assert (len(web.gets("/bucket/a.parquet")), waits) == (1, [])
