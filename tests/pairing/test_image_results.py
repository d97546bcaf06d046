"""Tests how files of img2dataset's results are read: required columns, the meaning of rows, the hash of a URL."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.pairing.columns import Counts
from capsfusion_tasks.pairing.image_results import (
    ImageResults,
    batches_of,
    publish_batch,
    read_results,
    url_hashes,
)
from capsfusion_tasks.staging.storage import Storage


def read(content: pa.Table | bytes, counts: Counts | None = None, number: int = 0) -> list[pa.Table]:
    if isinstance(content, pa.Table):
        stream = io.BytesIO()
        pq.write_table(content, stream)
        content = stream.getvalue()
    return list(read_results(pa.BufferReader(content), "here/0.parquet", 1, number, counts or Counts()))


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (
            {"URL": ["u"], "state": ["success"]},
            "has no column status, which img2dataset writes; its columns are URL, state",
        ),
        ({"status": ["success"]}, "has no column url"),
        ({"url": ["u"], "status": [200]}, "status is int64, expected text"),
        ({"url": ["u"], "status": ["x"], "STATUS": ["y"]}, r"the same column more than once \(status and STATUS\)"),
    ],
)
def test_a_file_without_its_columns_is_refused(bad: dict[str, list[Any]], said: str) -> None:
    with pytest.raises(InputError, match=rf"^here/0\.parquet.*{said}"):
        read(pa.table(bad))


def test_a_file_that_is_no_parquet_is_refused() -> None:
    with pytest.raises(InputError, match=r"here/0\.parquet cannot be read as Parquet"):
        read(b"PAR1 no file")


def test_rows_that_do_not_say_whether_an_image_is_gone_are_counted() -> None:
    counts = Counts()
    statuses = ["success", "failed_to_download", "failed_to_resize", None, "queued", "success", "success"]
    [found] = read(pa.table({"Url": ["a", "b", "c", "d", "e", " ", None], "Status": statuses}), counts)
    assert counts == Counts(7, {"null_url": 2, "no_status": 2})
    assert found["gone"].to_pylist() == [False, True, False]
    assert found["hash"].to_pylist() == url_hashes(pa.array(["a", "b", "c"])).tolist()


def test_the_hash_of_a_url_never_changes() -> None:
    assert url_hashes(pa.array(["http://a.example/1.jpg", "ä", ""])).tolist() == [
        -2634726841229818401,
        -1908114373578045552,
        0,
    ]


def test_rows_of_a_file_that_failed_in_its_middle_do_not_count(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "staging"))
    [first] = read(pa.table({"url": ["a"], "status": ["failed_to_download"]}))
    [second] = read(pa.table({"url": ["b"], "status": ["failed_to_download"]}), number=1)
    publish_batch(storage, tmp_path, {}, [first, second], {1: ("second", Counts(1))})
    [batch] = batches_of(storage, {})
    assert batch.files == {"second": Counts(1)}
    pairs = pa.table({"image_url": ["a", "b"], "gone": pa.nulls(2, pa.bool_())})
    assert ImageResults(storage, (batch,)).of_bucket("00000").are_gone(pairs).tolist() == [False, True]


def test_a_batch_that_a_run_replaces_between_listing_and_reading_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(str(tmp_path / "staging"))

    def publish(file: str) -> None:
        publish_batch(storage, tmp_path, {}, read(pa.table({"url": ["a"], "status": ["x"]})), {0: (file, Counts(1))})

    publish("small")
    [small] = batches_of(storage, {})
    files = storage.files

    def replaced(folder: str) -> list[str]:
        listed = files(folder)
        monkeypatch.undo()
        publish("large")
        small.delete(storage)
        return listed

    monkeypatch.setattr(storage, "files", replaced)
    [batch] = batches_of(storage, {})
    assert batch.files == {"large": Counts(1)}
