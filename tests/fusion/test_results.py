"""Tests how a rank writes the engine's completions to files."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch.distributed import HashStore

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion import chunk_writer, chunks
from capsfusion_tasks.fusion.engine import Completion, Occupancy, Request
from capsfusion_tasks.fusion.feed import Prepared
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.fusion.job import FuseJob
from capsfusion_tasks.fusion.results import Results
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from capsfusion_tasks.settings import load_settings
from capsfusion_tasks.staging.storage import Storage


@pytest.fixture
def job(tmp_path: Path) -> FuseJob:
    settings = load_settings(home=tmp_path / "home")
    return FuseJob.of(settings, decide(settings), staging=str(tmp_path), pairs="pairs", chunks="chunks")


def results_of(job: FuseJob, store: HashStore, rows: range) -> Results:
    """A ``Results`` that waits for the captions of these rows."""
    results = Results(job, Storage(job.staging), store, LlamaTokenizer(BUNDLED_MODEL / "tokenizer.model"), Occupancy())
    inputs = {row: chunks.input_digest(str(row), "") for row in rows}
    results.expect(Prepared(inputs, [Request(row, [1] * 7) for row in rows], []))
    return results


def finish(results: Results, rows: range) -> None:
    for row in rows:
        results.add(Completion(row, [306], "stop", 2))


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def finished(job: FuseJob) -> list[int]:
    return list(chunks.collect(Storage(job.staging), "chunks", job.fusion_id, 100, ["row"])["row"].to_pylist())


def test_rows_count_before_they_are_written_and_the_last_ones_are_written_at_the_end(job: FuseJob) -> None:
    store = HashStore()
    with results_of(job.model_copy(update={"write_seconds": 1000}), store, range(5)) as results:
        finish(results, range(3))
        wait_until(lambda: store.add("rows", 0) == 3)
        assert (store.add("caption_tokens", 0), store.add("written", 0)) == (6, 0)
        assert finished(job) == []
        finish(results, range(3, 5))
    assert (store.add("rows", 0), store.add("written", 0)) == (5, 5)
    assert finished(job) == list(range(5))


def test_finished_rows_are_in_a_file_while_the_rank_goes_on(job: FuseJob) -> None:
    store = HashStore()
    with results_of(job.model_copy(update={"write_seconds": 0.05}), store, range(9)) as results:
        for part in (range(3), range(3, 7)):
            finish(results, part)
            wait_until(lambda part=part: finished(job) == list(range(part.stop)))  # type: ignore[misc]
        finish(results, range(7, 9))
    assert len(Storage(job.staging).files("chunks")) == 1, "the same file, longer"
    table, figures = chunks.figures(Storage(job.staging), "chunks", job.fusion_id, 9)
    assert (table.num_rows, figures.prompt_tokens, figures.caption_tokens) == (9, 63, 18)


def test_rows_are_in_a_file_even_where_the_engine_fails(job: FuseJob) -> None:
    def fail() -> None:
        with results_of(job, HashStore(), range(9)) as results:
            finish(results, range(4))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert finished(job) == list(range(4))


def test_chunks_are_closed_when_they_are_full_or_old_and_never_replace_those_of_another_try(
    job: FuseJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(job.staging)
    with results_of(job.model_copy(update={"chunk_rows": 4}), HashStore(), range(10)) as results:
        finish(results, range(10))
    earlier = storage.files("chunks")
    assert [storage.read_table(path).num_rows for path in earlier] == [4, 4, 2]

    monkeypatch.setattr(chunk_writer, "CHUNK_SECONDS", 0.0)
    store = HashStore()
    with results_of(job.model_copy(update={"write_seconds": 0.05}), store, range(10, 14)) as results:
        for row in range(10, 13):
            finish(results, range(row, row + 1))
            wait_until(lambda row=row: store.add("written", 0) == row - 9)  # type: ignore[misc]
        results.add(Completion(13, [], "error: of the device", 0))
    assert [path.partition("-")[0][-5:] for path in storage.files("chunks")] == [f"{n:05d}" for n in range(7)]
    assert finished(job) == list(range(14))


def test_a_row_that_the_engine_never_gave_back_is_told(job: FuseJob) -> None:
    with pytest.raises(RuntimeError, match="no caption for 2 rows; the first is 3"):  # noqa: SIM117
        with results_of(job, HashStore(), range(5)) as results:
            finish(results, range(3))
    assert finished(job) == [0, 1, 2]
