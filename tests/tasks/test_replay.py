"""Replays of rejected captions move the right rows exactly once, even after kills and during other runs."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.demo.pairs.grammar import make_pair
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import chunks as chunk_files
from capsfusion_tasks.fusion.figures import Figures
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning.estimate import Budget
from capsfusion_tasks.schemas import FUSED, PAIRS, Replay, Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import local_run
from capsfusion_tasks.tasks.local_run import run_replay
from capsfusion_tasks.thresholds import GateSettings, RuleSettings
from capsfusion_tasks.warehouse import ledger, quarantine, rates
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.invariants import forgotten
from capsfusion_tasks.warehouse.sql import execute_sql
from tests import one_process
from tests.command import capsfusion
from tests.conftest import plain_url
from tests.opened import interval_tasks, replay, unit_tasks
from tests.warehouse.conftest import in_threads, pair_id

DAY = Interval(start=datetime(2026, 11, 10, tzinfo=UTC), end=datetime(2026, 11, 11, tzinfo=UTC))
QUARANTINE = "select pair_id, fusion_id, unit_id, capsfusion, reasons from rejected_captions order by pair_id"

Captions = Callable[[int], str]


def good(number: int) -> str:
    return f"Rex the dog number {number} is on green grass."


def cut_off(number: int) -> str:
    return f"Rex the dog number {number} is on"


def rex(numbers: Sequence[int]) -> pa.Table:
    """Pairs with these numbers. ``good`` and ``cut_off`` make captions for the pairs."""
    return pairs_table({number: (f"Rex the dog number {number}", "A dog on grass.") for number in numbers})


def pairs_table(captions: dict[int, tuple[str, str]]) -> pa.Table:
    rows = [
        {
            "pair_id": pair_id(number),
            "image_url": f"http://example.com/{number}.jpg",
            "laion_2b": raw,
            "laion_coco": synthetic,
            "laion_hash": number,
            "punsafe": 0.25,
            "laion_2b_shard": "a",
            "laion_2b_row": number,
            "laion_coco_shard": "b",
            "laion_coco_row": number,
        }
        for number, (raw, synthetic) in captions.items()
    ]
    return pa.Table.from_pylist(rows, schema=PAIRS).sort_by("pair_id")


@pytest.fixture
def settings(tiny_model: Path, warehouse_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        model=str(tiny_model), num_beams=1, max_new_tokens=4, buckets=1, warehouse_url=warehouse_url, home=tmp_path
    )


def other(settings: Settings, **changes: Any) -> Settings:
    """``settings`` with other decoding settings (by default 2 beams), but the same warehouse and staging area."""
    return Settings(**{**settings.model_dump(), "num_beams": 2, **changes})


def fused_day(settings: Settings, pairs: pa.Table, captions: Captions) -> None:
    """Plan the pairs as a run of DAY would, then load them with ``captions`` in place of generated captions."""
    storage = Storage(settings.staging_uri)
    storage.write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", pairs)
    for unit in interval_tasks.plan(settings, DAY):
        finish(settings, unit, captions)


def finish(settings: Settings, unit: Unit, captions: Captions) -> dict[str, Any]:
    """Load a unit with ``captions`` (a pair's number → its caption) in place of generated captions."""
    fuse(settings, unit, captions)
    unit_tasks.validate(settings, unit, accept_rejections=True)
    return unit_tasks.load(settings, unit)


def fuse(settings: Settings, unit: Unit, captions: Captions) -> None:
    storage = Storage(settings.staging_uri)
    pairs = storage.read_table(layout.unit_pairs(unit.unit_id))
    unit_tasks.fuse_started(settings, unit)
    made = [
        {
            "row": row,
            "input": chunk_files.input_digest(pair["laion_2b"], pair["laion_coco"]),
            "capsfusion": captions(pair["laion_hash"]),
            "finish_reason": "stop",
            "prompt_tokens": 9,
            "caption_tokens": 9,
        }
        for row, pair in enumerate(pairs.to_pylist())
    ]
    path = f"{layout.chunks_folder(unit.unit_id)}/99999-by-hand.parquet"
    figures = Figures(rows=unit.rows, device_seconds=1.0)
    chunk_files.publish(storage, path, pa.Table.from_pylist(made, FUSED), unit.fusion_id, figures)
    unit_tasks.fuse_finished(settings, unit)


def rejections_of(settings: Settings, name: str = "run 1", **selection: Any) -> Replay:
    return Replay(name=name, fusion_id=decide(settings).fusion_id, **selection)


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    with open_warehouse(settings) as warehouse:
        return list(execute_sql(warehouse, sql).to_pylist())


def numbers_in(settings: Settings, table: str, fusion: Settings | None = None) -> list[int]:
    """The numbers of the pairs in the table. With ``fusion``, only of pairs that were fused with these settings."""
    of = f"where fusion_id = '{decide(fusion).fusion_id}'" if fusion else ""
    return [row["laion_hash"] for row in rows(settings, f"select laion_hash from {table} {of} order by 1")]


def numbers_of(settings: Settings, units: list[Unit]) -> list[int]:
    storage = Storage(settings.staging_uri)
    tables = [storage.read_table(layout.unit_pairs(unit.unit_id)) for unit in units]
    return sorted(number for table in tables for number in table["laion_hash"].to_pylist())


def assert_consistent(settings: Settings) -> None:
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert violations(connection) == []


def accepted_below(threshold: int) -> Captions:
    return lambda number: good(number) if number < threshold else cut_off(number)


# ---- which captions move ----


@pytest.mark.usefixtures("one_process")
def test_a_replay_with_another_beam_moves_exactly_the_captions_that_pass(settings: Settings) -> None:
    with_demo_model = Settings(**{**settings.model_dump(exclude={"model"}), "max_new_tokens": 60})
    rng = random.Random(3)
    made = {number: (pair.raw, pair.synthetic) for number in range(8) for pair in [make_pair(rng, "train")]}
    made[0] = ("Rex the dog number 0", "A dog on grass.")
    made[8] = (" ".join(f"Rex-{word}" for word in range(50)), "A white wall.")  # its fused caption needs over 60 tokens
    fused_day(settings, pairs_table(made), lambda number: "It is" if number else good(0))
    assert numbers_in(settings, "rejected_captions") == list(range(1, 9))
    [before] = rows(settings, "select * from rejected_captions where laion_hash = 1")

    said: list[str] = []
    report = run_replay(with_demo_model, rejections_of(settings), say=said.append)

    moved = numbers_in(settings, "fused_captions", with_demo_model)
    kept = numbers_in(settings, "rejected_captions", with_demo_model)
    assert moved
    assert 8 in kept
    assert sorted(moved + kept) == list(range(1, 9))
    assert numbers_in(settings, "rejected_captions", settings) == [], "each pair is in quarantine once, or not at all"
    assert numbers_in(settings, "fused_captions", settings) == [0]
    assert (report["summary"]["rows_in"], report["moved"]) == (8, len(moved))
    fusion, target = (decide(each).fusion_id for each in (settings, with_demo_model))
    assert f"selected: 8 rejected captions of fusion {fusion}, in units: 1 loaded" in report["text"]
    assert f"moved: {len(moved)} passed under fusion {target}" in report["text"]
    assert f"rejected again: {len(kept)}, in rejected_captions under fusion {target}: " in report["text"]
    assert any("8 rejected captions to replay" in line for line in said)
    # The rejected row is kept unchanged in replayed_captions. The new row has the same sources.
    [first] = rows(settings, "select * from replayed_captions where laion_hash = 1")
    assert {name: first[name] for name in before} == before
    [again] = rows(
        settings,
        "select * from (select pair_id, image_url, laion_2b, laion_coco, punsafe, laion_2b_row, unit_id from"
        " fused_captions union all select pair_id, image_url, laion_2b, laion_coco, punsafe, laion_2b_row, unit_id from"
        f" rejected_captions) as it where pair_id = '{before['pair_id']}'",
    )
    assert again.pop("unit_id") == first["replayed_by"] != before["unit_id"]
    assert again == {name: before[name] for name in again}
    assert_consistent(settings)


@pytest.mark.usefixtures("one_process")
def test_a_replay_with_another_prompt_fuses_again_under_another_fusion(settings: Settings, tmp_path: Path) -> None:
    fused_day(settings, rex(range(4)), cut_off)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("One: {raw}\nTwo: {synthetic}\nBoth:")
    with_prompt = other(settings, num_beams=1, prompt=prompt)
    run_replay(with_prompt, rejections_of(settings), say=lambda line: None)
    assert numbers_in(settings, "rejected_captions", settings) == []
    assert numbers_in(settings, "rejected_captions", with_prompt) == [0, 1, 2, 3]
    assert_consistent(settings)


def test_reason_time_and_limit_select(settings: Settings) -> None:
    fused_day(settings, rex(range(9)), lambda n: good(n) if n < 2 else "Rex." if n < 5 else cut_off(n))
    target = other(settings)
    before = datetime(2000, 1, 1, tzinfo=UTC)
    nothing = replay.plan(target, rejections_of(settings, loaded_before=before))
    assert nothing == []
    assert "selected: 0 rejected captions" in replay.report(target, rejections_of(settings))["text"]
    short = replay.plan(target, rejections_of(settings, "short", reasons=("too_short", "empty"), loaded_from=before))
    assert numbers_of(settings, short) == [2, 3, 4]
    # Captions that another replay has taken do not count towards the limit.
    two = replay.plan(target, rejections_of(settings, "two", limit=2))
    assert len(numbers_of(settings, two)) == 2
    rest = replay.plan(target, rejections_of(settings, "rest"))
    assert sorted(numbers_of(settings, [*short, *two, *rest])) == list(range(2, 9))


def test_the_same_replay_again_does_nothing_and_another_goes_on_from_there(settings: Settings) -> None:
    fused_day(settings, rex(range(6)), cut_off)
    second, third = other(settings), other(settings, num_beams=3)
    [unit] = replay.plan(second, rejections_of(settings))
    finish(second, unit, accepted_below(3))
    after = rows(settings, QUARANTINE)
    for name in ("run 1", "run 2"):
        assert replay.plan(second, rejections_of(settings, name)) == []
        # With the captions' own settings, a replay only validates again, which needs no GPU.
        assert replay.plan(second, rejections_of(second, name), budget=Budget(0)) != []
        for judged in replay.plan(second, rejections_of(second, name)):
            assert unit_tasks.is_fused(second, judged)
            finish_as_fused(second, judged)
    assert [row["capsfusion"] for row in rows(settings, QUARANTINE)] == [row["capsfusion"] for row in after]
    [unit] = replay.plan(third, rejections_of(second))
    assert numbers_of(settings, [unit]) == [3, 4, 5]
    finish(third, unit, accepted_below(5))
    assert numbers_in(settings, "rejected_captions") == [5]
    # A replay skips pairs that were already fused with its settings, unless existing is "replace".
    assert replay.plan(second, rejections_of(third, "back")) == []
    assert numbers_of(settings, replay.plan(second, rejections_of(third, "back"), existing="replace")) == [5]
    assert_consistent(settings)


def finish_as_fused(settings: Settings, unit: Unit) -> dict[str, Any]:
    unit_tasks.fuse_started(settings, unit)
    unit_tasks.fuse_finished(settings, unit)
    unit_tasks.validate(settings, unit, accept_rejections=True)
    return unit_tasks.load(settings, unit)


def test_with_the_same_settings_captions_are_judged_by_the_rules_of_now_without_a_gpu(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Settings(**{**settings.model_dump(), "rules": RuleSettings(min_words=10)})
    storage = Storage(settings.staging_uri)
    storage.write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", rex(range(6)))
    [unit] = interval_tasks.plan(strict, DAY)
    fuse(strict, unit, accepted_below(4))
    unit_tasks.validate(strict, unit)
    unit_tasks.load(strict, unit)
    assert numbers_in(settings, "rejected_captions") == list(range(6)), "good captions have nine words"

    monkeypatch.setattr(local_run.launcher, "run", lambda *_, **__: pytest.fail("torchrun is started"))
    report = run_replay(settings, rejections_of(settings), budget=Budget(max_gpu_hours=0), say=lambda line: None)
    assert report["moved"] == 4
    assert report["reasons"] == {"truncated": 2}
    assert numbers_in(settings, "fused_captions") == [0, 1, 2, 3]
    assert numbers_in(settings, "rejected_captions") == [4, 5]
    assert numbers_in(settings, "replayed_captions") == [0, 1, 2, 3]
    assert_consistent(settings)
    assert run_replay(settings, rejections_of(settings, "again"), say=lambda line: None)["moved"] == 0
    assert numbers_in(settings, "rejected_captions") == [4, 5]
    assert_consistent(settings)


def test_rows_that_could_not_be_fused_are_fused_again_with_the_same_settings(settings: Settings) -> None:
    storage = Storage(settings.staging_uri)
    storage.write_table(f"{layout.pairs_folder(DAY)}/00000.parquet", rex(range(3)))
    [unit] = interval_tasks.plan(settings, DAY)
    fuse(settings, unit, good)
    [chunk] = storage.files(layout.chunks_folder(unit.unit_id))
    table = storage.read_table(chunk)
    failed = pa.array(["error: out of memory"] * 3)
    place = FUSED.get_field_index("finish_reason")
    storage.write_table(chunk, table.set_column(place, FUSED.field(place), failed))
    unit_tasks.validate(settings, unit, accept_rejections=True)
    unit_tasks.load(settings, unit)
    [unit] = replay.plan(settings, rejections_of(settings, reasons=("failed",)))
    assert not unit_tasks.is_fused(settings, unit)
    finish(settings, unit, good)
    assert numbers_in(settings, "fused_captions") == [0, 1, 2]
    assert_consistent(settings)


def test_a_unit_keeps_its_value_of_existing_so_old_captions_do_not_hide_what_was_fused(settings: Settings) -> None:
    fused_day(settings, rex(range(4)), cut_off)
    [unit] = replay.plan(settings, rejections_of(settings), existing="replace")
    assert not unit_tasks.is_fused(settings, unit)
    with pytest.raises(InputError, match="over budget"):  # its rows are still to be fused
        replay.plan(settings, rejections_of(settings), budget=Budget(max_gpu_hours=0))
    fuse(settings, unit, good)
    assert replay.plan(settings, rejections_of(settings)) == [unit]
    finish_as_fused(settings, unit)
    assert numbers_in(settings, "fused_captions") == list(range(4))
    assert_consistent(settings)


def test_captions_that_a_unit_takes_over_do_not_hide_rows_that_were_fused(settings: Settings) -> None:
    fused_day(settings, rex(range(4)), cut_off)
    [unit] = replay.plan(settings, rejections_of(settings))
    storage, folder = Storage(settings.staging_uri), layout.chunks_folder(unit.unit_id)
    [known] = storage.files(folder)
    fuse(settings, unit, good)
    storage.delete(known)
    assert replay.plan(settings, rejections_of(settings)) == [unit]
    assert known not in storage.files(folder)
    assert finish_as_fused(settings, unit)["accepted"] == 4


# ---- exactly once ----


def test_a_replay_is_resumed_under_its_name_and_its_rows_are_nobody_elses(settings: Settings) -> None:
    fused_day(settings, rex(range(6)), cut_off)
    target = other(settings, unit_tokens=60)
    first = replay.plan(target, rejections_of(settings))
    assert len(first) > 1
    finish(target, first[0], good)
    assert replay.plan(target, rejections_of(settings)) == first[1:]
    assert replay.plan(target, rejections_of(settings, "run 2")) == []
    assert replay.plan(other(settings, num_beams=3), rejections_of(settings, "run 3")) == []
    for unit in first[1:]:
        finish(target, unit, good)
    assert replay.plan(target, rejections_of(settings)) == []
    assert numbers_in(settings, "fused_captions", target) == list(range(6))
    assert_consistent(settings)


def test_of_replays_at_the_same_time_each_caption_is_taken_by_one(settings: Settings) -> None:
    fused_day(settings, rex(range(40)), cut_off)
    targets = [other(settings, num_beams=beams) for beams in (2, 2, 3, 4)]
    planned = in_threads(
        *(
            lambda number=number, target=target: replay.plan(target, rejections_of(settings, f"run {number}"))
            for number, target in enumerate(targets)
        )
    )
    units = [unit for found in planned for unit in found]
    assert numbers_of(settings, units) == list(range(40))
    by_fusion = {decide(target).fusion_id: target for target in targets}
    for unit in units:
        fuse(by_fusion[unit.fusion_id], unit, accepted_below(30))
        unit_tasks.validate(settings, unit, accept_rejections=True)
    loads = in_threads(*(lambda unit=unit: unit_tasks.load(settings, unit) for unit in units * 2))
    assert [load["accepted"] for load in loads] == [30] * 2
    assert sorted(load["already_loaded"] for load in loads) == [False, True]
    assert numbers_in(settings, "fused_captions") == list(range(30))
    assert numbers_in(settings, "rejected_captions") == list(range(30, 40))
    assert_consistent(settings)


def test_a_unit_that_failed_does_not_keep_its_rows_from_other_settings(settings: Settings) -> None:
    fused_day(settings, rex(range(3)), cut_off)
    second, third = other(settings), other(settings, num_beams=3)
    [unit] = replay.plan(second, rejections_of(settings))
    unit_tasks.fuse_failed(second, unit, "out of memory")
    [mine] = replay.plan(third, rejections_of(settings, "run 2"))
    finish(third, mine, good)
    # The first replay goes on and adds its captions. But no caption leaves rejected_captions twice.
    finish(second, unit, good)
    report = replay.report(second, rejections_of(settings))
    assert report["moved"] == 0
    assert "also passed: 3 that another replay had already moved" in report["text"]
    assert replay.report(third, rejections_of(settings, "run 2"))["moved"] == 3
    assert len(numbers_in(settings, "replayed_captions")) == 3
    assert_consistent(settings)


def test_one_replay_with_two_models_counts_each_ones_own_captions(settings: Settings) -> None:
    fused_day(settings, rex(range(4)), cut_off)
    second, third = other(settings), other(settings, num_beams=3)
    [unit] = replay.plan(second, rejections_of(settings, limit=3))
    finish(second, unit, good)
    [unit] = replay.plan(third, rejections_of(settings))
    finish(third, unit, good)
    reports = [replay.report(target, rejections_of(settings)) for target in (second, third)]
    assert [report["moved"] for report in reports] == [3, 1]
    assert not any("also passed" in report["text"] for report in reports)


def test_a_run_of_the_day_and_a_replay_neither_lose_nor_double_a_pair(settings: Settings) -> None:
    fused_day(settings, rex(range(6)), accepted_below(2))
    target = other(settings)
    [again] = replay.plan(target, rejections_of(settings))
    # A run of the day with the replay's settings does not plan the replay's pairs, neither during the replay nor later.
    [days] = interval_tasks.plan(target, DAY)
    assert numbers_of(settings, [days]) == [0, 1]
    finish(target, again, accepted_below(4))
    finish(target, days, good)
    assert interval_tasks.plan(target, DAY) == []
    # A run of the day with the first settings does not fuse the replayed pairs again, and does not report them as lost.
    assert interval_tasks.plan(settings, DAY) == []
    report = interval_tasks.report(settings, DAY)
    assert (report["unplanned"], report["summary"]["rows_in"], report["replayed"]) == (0, 6, 2)
    assert "4 rejected captions were fused or validated again in a replay; 2 of them passed" in report["text"]
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert rates.pairs_in_units(connection, decide(settings).fusion_id, DAY) == 6
        assert rates.unfused(connection, decide(target).fusion_id, DAY, longest_row=260) == (0, 0)
        assert [one.unit.unit_id for one in ledger.units_of(connection, decide(target).fusion_id, DAY)] == [
            days.unit_id
        ]
    assert numbers_in(settings, "fused_captions", target) == [0, 1, 2, 3]
    assert numbers_in(settings, "rejected_captions", target) == [4, 5]
    assert_consistent(settings)
    # With existing="replace", all pairs of the day are fused again.
    [units] = interval_tasks.plan(settings, DAY, existing="replace")
    fuse(settings, units, good)
    unit_tasks.validate(settings, units)
    unit_tasks.load(settings, units, existing="replace")
    assert numbers_in(settings, "fused_captions", settings) == list(range(6))
    assert_consistent(settings)


@pytest.mark.slow
def test_a_replay_that_is_killed_goes_on_where_it_was(settings: Settings) -> None:
    fused_day(settings, rex(range(12)), cut_off)
    variables = {
        "CAPSFUSION_HOME": str(settings.home),
        "CAPSFUSION_WAREHOUSE_URL": plain_url(settings),
        "CAPSFUSION_MODEL": settings.model,
        "CAPSFUSION_MAX_NEW_TOKENS": "4",
        "CAPSFUSION_NUM_BEAMS": "1",
        "CAPSFUSION_BUCKETS": "1",
        "CAPSFUSION_CHUNK_ROWS": "1",
        "CAPSFUSION_BATCH_SIZE": "1",
    }
    command = ["replay", "--reason", "truncated", "--max-new-tokens", "40"]
    storage = Storage(settings.staging_uri)
    killed = one_process.start(command, variables)
    deadline = time.monotonic() + 200
    while not (done := chunks_of_replays(storage)):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    [replaying] = rows(settings, "select replay, state from work_units where replay is not null")
    with open_warehouse(settings) as warehouse:
        second = quarantine.sole_run(warehouse.engine, replaying["replay"])
        with pytest.raises(NotReadyError, match="another process runs this replay"):
            second.__enter__()
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert numbers_in(settings, "rejected_captions", settings) == list(range(12)), "nothing moves in part"

    with one_process.ranks_in_one_process():
        finished = capsfusion(*command, **variables)
    assert finished.returncode == 0, finished.messages
    assert b"selected: 12 rejected captions" in finished.stdout
    assert done.items() <= chunks_of_replays(storage).items(), "what was fused is not fused again"
    replayed = rows(settings, "select tries, rows_in from work_units where replay is not null")
    assert replayed == [{"tries": 2, "rows_in": 12}]
    everywhere = numbers_in(settings, "fused_captions") + numbers_in(settings, "rejected_captions")
    assert sorted(everywhere) == list(range(12))
    assert_consistent(settings)


def chunks_of_replays(storage: Storage) -> dict[str, bytes]:
    units = [unit for unit in storage.folders("units") if unit.startswith("replay-")]
    paths = [path for unit in units for path in storage.files(layout.chunks_folder(unit))]
    return {path: Path(storage.path(path)).read_bytes() for path in paths}


def test_a_repeated_replay_reports_its_own_run_and_what_all_runs_did(settings: Settings) -> None:
    fused_day(settings, rex(range(6)), cut_off)
    strict = Settings(**{**settings.model_dump(), "rules": RuleSettings(min_words=10)})
    selection = Replay.of_selection(fusion_id=decide(settings).fusion_id)
    for whole in ("", "all runs of this replay: 0 moved, 6 are still rejected"):
        text = run_replay(strict, selection, say=lambda line: None)["text"]
        assert "selected: 6 rejected captions" in text
        assert "rejected again: 6, " in text
        assert ("all runs" in text) == bool(whole)
        assert whole in text
    target = other(settings)
    one, _ = replay.plan(other(settings, unit_tokens=100), selection)
    finish(target, one, good)
    [two] = replay.plan(target, selection)
    finish(target, two, good)
    report = replay.report(target, selection, [two.unit_id])
    assert (report["moved"], report["summary"]["rows_in"], report["whole"]) == (two.rows, two.rows, (6, 0))
    assert f"moved: {two.rows} passed" in report["text"]
    nothing = replay.report(target, selection, [])
    assert "selected: 0" in nothing["text"]
    assert "all runs of this replay: 6 moved, 0 are still rejected" in nothing["text"]


def test_the_export_of_a_day_says_how_many_of_its_captions_only_replays_accepted(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fused_day(settings, rex(range(6)), accepted_below(2))
    assert interval_tasks.export(settings, DAY, str(tmp_path / "out"))["rows"] == 2
    assert "replay" not in caplog.text
    for target, name, threshold in ((settings, "run 1", 4), (other(settings), "run 2", 5)):
        [unit] = replay.plan(target, rejections_of(settings, name), existing="replace")
        finish(target, unit, accepted_below(threshold))
    caplog.clear()
    assert interval_tasks.export(settings, DAY, str(tmp_path / "out"))["rows"] == 2
    assert "at least 2 rejected captions of this interval were accepted in a later replay" in caplog.text


# ---- more pairs than a run can plan ----


def small(settings: Settings) -> Settings:
    """Settings with which 12 pairs are two units of six."""
    return Settings(**{**settings.model_dump(), "unit_tokens": 200})


def replace_day(settings: Settings, **options: Any) -> list[int]:
    """Run DAY with existing = replace. Returns the numbers of the planned pairs."""
    units = interval_tasks.plan(settings, DAY, existing="replace", **options)
    for unit in units:
        finish(settings, unit, good)
    return numbers_of(settings, units)


def test_runs_that_replace_a_day_continue_until_all_is_replaced_and_then_begin_anew(settings: Settings) -> None:
    settings = small(settings)
    fused_day(settings, rex(range(12)), good)
    first = replace_day(settings, max_units=1)
    assert len(first) == 6
    assert "left: 6 pairs that still have their older captions" in interval_tasks.report(settings, DAY)["text"]
    assert interval_tasks.plan(settings, DAY) == [], "a run that skips pairs does not end the replacement"
    second = replace_day(settings, max_units=1)
    assert sorted([*first, *second]) == list(range(12))
    assert "older captions" not in interval_tasks.report(settings, DAY)["text"]
    assert replace_day(settings) == list(range(12)), "the last replacement has ended"
    parts = [replace_day(settings, limit=5) for _ in range(3)]
    assert [len(part) for part in parts] == [5, 5, 2]
    assert sorted(number for part in parts for number in part) == list(range(12))
    assert len(replace_day(settings, limit=5)) == 5
    assert_consistent(settings)


def test_a_replacement_that_was_abandoned_begins_anew(settings: Settings) -> None:
    settings = small(settings)
    fused_day(settings, rex(range(12)), good)
    first = replace_day(settings, max_units=1)
    with open_warehouse(settings) as warehouse, warehouse.engine.begin() as connection:
        age = "update capsfusion.work_units set loaded_at = loaded_at - interval '31 days'"
        connection.exec_driver_sql(f"{age}, created_at = created_at - interval '31 days'")
    assert replace_day(settings, max_units=1) == first


def test_pairs_of_a_unit_that_is_dropped_or_deleted_are_left_to_replace(settings: Settings) -> None:
    settings = small(settings)
    fused_day(settings, rex(range(12)), good)
    one, two = interval_tasks.plan(settings, DAY, existing="replace")
    finish(settings, one, good)
    with open_warehouse(settings) as warehouse, forgotten(warehouse.engine, two.unit_id):
        pass
    [two] = interval_tasks.plan(settings, DAY, existing="replace", limit=5)
    assert not set(numbers_of(settings, [one])) & set(numbers_of(settings, [two]))
    # Other rules: the unit is planned again, from the same pairs.
    changed = Settings(**{**settings.model_dump(), "gone_images": "skip"})
    [again] = interval_tasks.plan(changed, DAY, existing="replace", limit=5)
    assert numbers_of(settings, [again]) == numbers_of(settings, [two])
    finish(changed, again, good)
    assert len(replace_day(changed)) == 1
    assert replace_day(changed) == list(range(12))


def test_a_replay_under_its_own_fusion_judges_each_caption_once_before_it_begins_anew(settings: Settings) -> None:
    settings = small(settings)
    fused_day(settings, rex(range(12)), cut_off)

    def judge(name: str, max_units: int | None = None, **selection: Any) -> list[int]:
        units = replay.plan(settings, rejections_of(settings, name, **selection), max_units=max_units)
        for unit in units:
            finish_as_fused(settings, unit)
        return numbers_of(settings, units)

    halves = [judge("run 1", max_units=1) for _ in range(2)]
    assert sorted(halves[0] + halves[1]) == list(range(12))
    assert judge("run 1") == list(range(12))
    # With a limit, replays of other names continue, too: they take the captions that were judged longest ago.
    for names in (["run 2"] * 3, ["run 3", "run 4", "run 5"]):
        parts = [judge(name, limit=4) for name in names]
        assert sorted(number for part in parts for number in part) == list(range(12))
    assert numbers_in(settings, "rejected_captions") == list(range(12))
    assert_consistent(settings)


# ---- which replays are refused ----


def test_a_fusion_that_is_not_there_and_a_budget_that_does_not_do_are_refused(settings: Settings) -> None:
    fused_day(settings, rex(range(3)), cut_off)
    with pytest.raises(InputError, match=r"no fusion_id abc, so .* to replay; its fusion_ids: [0-9a-f]{12} \("):
        replay.plan(settings, Replay(name="run 1", fusion_id="abc"))
    with pytest.raises(InputError, match="cannot be checked"):
        replay.plan(other(settings), rejections_of(settings), budget=Budget(max_gpu_hours=1))
    assert rows(settings, "select unit_id from work_units where replay is not null") == []
    with pytest.raises(InputError, match="give an end after the start"):
        rejections_of(settings, loaded_from=DAY.end, loaded_before=DAY.start)


def test_the_gate_of_a_replay_can_be_kept_and_its_units_do_not_move_the_gate_of_days(settings: Settings) -> None:
    fused_day(settings, rex(range(3)), cut_off)
    target = other(settings, gate=GateSettings(min_rows=1))
    [unit] = replay.plan(target, rejections_of(settings))
    fuse(target, unit, cut_off)
    with pytest.raises(InputError, match="3 of 3 captions of unit replay-"):
        unit_tasks.validate(target, unit)
    finish_as_fused(target, unit)
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert ledger.recent_verdicts(connection, decide(target).fusion_id) == []


def test_a_reason_that_does_not_exist_is_one_line_and_exit_code_2() -> None:
    done = capsfusion("replay", "--reason", "ugly")
    assert done.returncode == 2
    assert done.messages.startswith("capsfusion: error: unknown reason ugly: give one of failed, empty, ")
