"""Tests all stages over the sample shards, with a real PostgreSQL and a random model that writes nonsense.

Ranks are threads of this process (tests/one_process.py).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from capsfusion_tasks.context import open_context
from capsfusion_tasks.demo.sample_data import make_sample, write_sample_data
from capsfusion_tasks.demo.sample_report import SampleReport
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion import launcher
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import unit_tasks
from capsfusion_tasks.tasks.local_run import run_pipeline
from capsfusion_tasks.tasks.report import report_all
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.roles import LOADER
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.command import Ended, capsfusion, capsfusion_process
from tests.conftest import login, new_warehouse, plain_url
from tests.one_process import ranks_in_one_process
from tests.opened import interval_tasks
from tests.warehouse.conftest import rows as warehouse_rows

DAYS = [
    Interval(start=datetime(2026, 11, day, tzinfo=UTC), end=datetime(2026, 11, day, tzinfo=UTC) + timedelta(days=1))
    for day in (10, 11, 12)
]
CONTENT = "pair_id, image_url, laion_2b, laion_coco, laion_hash, fusion_id"


@pytest.fixture(scope="module", autouse=True)
def one_process() -> Iterator[None]:
    with ranks_in_one_process():
        yield


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SampleReport]:
    folder = tmp_path_factory.mktemp("sample")
    return folder / "shards", write_sample_data(folder / "shards", rows_per_day=40)


def settings_for(sample: tuple[Path, SampleReport], model: Path, warehouse_url: str, home: Path) -> Settings:
    return load_settings(
        laion2b=str(sample[0] / "laion-2b"),
        laion_coco=str(sample[0] / "laion-coco"),
        model=str(model),
        num_beams=1,
        max_new_tokens=4,
        buckets=2,  # 16 buckets, the default for few rows, almost double the time
        warehouse_url=warehouse_url,
        home=home,
    )


@pytest.fixture
def settings(sample: tuple[Path, SampleReport], tiny_model: Path, warehouse_url: str, tmp_path: Path) -> Settings:
    return settings_for(sample, tiny_model, warehouse_url, tmp_path)


@dataclass
class Done:
    """A warehouse after runs of the three days in order, and the reports of these runs. Tests must not change it.

    The runs use a login that may only write rows.
    """

    settings: Settings
    reports: list[dict[str, Any]]


@pytest.fixture(scope="module")
def done(
    sample: tuple[Path, SampleReport],
    tiny_model: Path,
    postgres: EmbeddedPostgres,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Done]:
    with new_warehouse(postgres) as url:
        loader = login(postgres, url, LOADER)
        settings = settings_for(sample, tiny_model, loader, tmp_path_factory.mktemp("done"))
        yield Done(settings, run_days(settings, DAYS))


def run_days(settings: Settings, days: Iterable[Interval]) -> list[dict[str, Any]]:
    return [run_pipeline(settings, day, say=lambda line: None) for day in days]


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    with open_warehouse(settings) as warehouse:
        return list(execute_sql(warehouse, sql).to_pylist())


def pairs_in(settings: Settings) -> list[dict[str, Any]]:
    """All accepted and rejected captions, without the columns that say from which shard and when a caption came."""
    tables = ("fused_captions", "rejected_captions")
    union = " union all ".join(f"select {CONTENT}, capsfusion, '{table}' as verdict from {table}" for table in tables)
    return rows(settings, f"{union} order by pair_id")


def test_the_counts_are_those_that_the_sample_announced(done: Done, sample: tuple[Path, SampleReport]) -> None:
    announced = sample[1]
    for day, report in zip(announced.days, done.reports, strict=True):
        for side, expected in (("laion_2b", day.laion_2b), ("laion_coco", day.laion_coco)):
            found = report["sides"][side]
            assert (found["shards"], found["pulled"], found["rows"]) == (
                expected.shards,
                expected.shards,
                expected.rows,
            )
            assert found["dropped"] == {reason: n for reason, n in expected.dropped.items() if n}
        assert report["summary"]["rows_in"] == day.pairs
        assert report["summary"]["waiting"] == 0
        assert report["found"]["pairs"] == report["found"]["already_fused"] + day.pairs
        text = report["text"]
        assert re.search(r"^model: .*tiny, native, float32, 1 beam, at most 4 tokens; fusion \w+$", text, re.M)
        [(captions, total, listed)] = re.findall(r"^rejected: (\d+) captions?, (\d+) reasons?: (.*)$", text, re.M)
        assert (int(captions), int(total)) == (report["summary"]["rejected"], sum(report["reasons"].values()))
        assert sum(map(int, re.findall(r"(\d+) \w+(?: \+|;|$)", listed))) == int(total)
    stored = pairs_in(done.settings)
    assert len(stored) == announced.pairs
    assert max(Counter(row["pair_id"] for row in stored).values()) == 1
    with open_warehouse(done.settings) as warehouse, warehouse.engine.connect() as connection:
        assert violations(connection) == []


def test_a_second_run_changes_nothing(done: Done) -> None:
    before = pairs_in(done.settings)
    units = "select unit_id, loaded_at, tries from work_units order by unit_id"
    loaded = rows(done.settings, units)
    for report in run_days(done.settings, DAYS):
        assert report["found"]["pairs"] == report["found"]["already_fused"] + report["summary"]["rows_in"]
        assert (
            f"found: {report['found']['pairs']} pairs, {report['found']['already_fused']} of them already fused"
            in report["text"]
        )
    assert pairs_in(done.settings) == before
    assert rows(done.settings, units) == loaded


def test_days_in_reverse_give_the_same_table(done: Done, settings: Settings) -> None:
    run_days(settings, reversed(DAYS))
    assert pairs_in(settings) == pairs_in(done.settings)


def test_an_unfinished_run_is_resumed_by_the_next(settings: Settings) -> None:
    first = plan_only(settings, DAYS[0])
    again = interval_tasks.plan(settings, DAYS[0])
    assert [unit.unit_id for unit in again] == [unit.unit_id for unit in first]
    # A larger interval does not plan these units' pairs again, although no caption is loaded yet.
    everything = Interval(start=DAYS[0].start, end=DAYS[2].end)
    others = plan_only(settings, everything)
    ids = [pair for unit in (*again, *others) for pair in unit_pairs(settings, unit.unit_id)]
    assert len(ids) == len(set(ids))


def plan_only(settings: Settings, interval: Interval) -> list[Any]:
    shards = interval_tasks.discover(settings, interval)
    for shard in shards:
        interval_tasks.pull(settings, shard)
    for group in interval_tasks.bucket_groups(settings):
        interval_tasks.pair(settings, interval, group)
    return interval_tasks.plan(settings, interval)


def unit_pairs(settings: Settings, unit_id: str) -> list[bytes]:
    return list(Storage(settings.staging_uri).read_table(layout.unit_pairs(unit_id))["pair_id"].to_pylist())


def test_fusing_again_replaces_whoever_loads_it_and_the_counts_still_add_up(settings: Settings) -> None:
    run_days(settings, DAYS[:1])
    before = pairs_in(settings)
    interval_tasks.plan(settings, DAYS[0], existing="replace")  # as if the run had been interrupted after planning
    run_days(settings, DAYS[:1])
    assert pairs_in(settings) == before
    units = rows(settings, "select rows_in, superseded, existing from work_units order by unit_id")
    assert [tuple(unit.values()) for unit in units] == [
        (len(before), len(before), "skip"),
        (len(before), 0, "replace"),
    ]
    with open_warehouse(settings) as warehouse, warehouse.engine.connect() as connection:
        assert violations(connection) == []
        assert f" + 0 waiting; {len(before)} of them were replaced later\n" in report_all(connection).text


def test_a_unit_that_cannot_be_loaded_fails_alone(settings: Settings) -> None:
    settings = settings.model_copy(update={"unit_tokens": 1000})  # two units
    first, *others = plan_only(settings, DAYS[0])
    assert others
    loaded_before = Unit(unit_id="restored", fusion_id=first.fusion_id, rows=1, tokens=1)
    pair = pa.array(unit_pairs(settings, first.unit_id)[:1], pa.binary(16))
    with open_warehouse(settings) as warehouse:
        with warehouse.engine.begin() as connection:
            ledger.register_units(connection, [loaded_before], DAYS[2])
        load_unit(warehouse, "restored", warehouse_rows(0).set_column(0, "pair_id", pair))
    report = run_pipeline(settings, DAYS[0], say=lambda line: None)
    assert [failure[: len("unit ")] for failure in report["failures"]] == ["unit "]
    assert "is in the warehouse already, from unit restored" in report["failures"][0]
    states = rows(settings, "select unit_id, state from work_units order by unit_id")
    assert {row["unit_id"] for row in states if row["state"] == "failed"} == {first.unit_id}
    assert {row["unit_id"] for row in states if row["state"] == "loaded"} == {"restored", *(u.unit_id for u in others)}

    run_pipeline(settings, DAYS[0], existing="replace", say=lambda line: None)
    assert len(pairs_in(settings)) == 40


@pytest.mark.parametrize("stage", ["validate", "load"])
@pytest.mark.parametrize("error", [InputError, NotReadyError])
def test_an_error_after_fusing_is_recorded_and_other_units_continue(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[Exception]
) -> None:
    settings = settings.model_copy(update={"unit_tokens": 1000})
    first, *others = plan_only(settings, DAYS[0])
    original = getattr(unit_tasks, stage)

    def failing(context: Any, unit: Unit, **options: Any) -> Any:
        if unit == first:
            raise error("made to fail")
        return original(context, unit, **options)

    monkeypatch.setattr(unit_tasks, stage, failing)
    report = run_pipeline(settings, DAYS[0], say=lambda line: None)
    assert [failure.endswith("made to fail") for failure in report["failures"]] == [True]
    assert report["may_pass"] == (error is NotReadyError)
    states = {row["unit_id"]: row["state"] for row in rows(settings, "select unit_id, state from work_units")}
    assert states == {first.unit_id: "failed"} | {unit.unit_id: "loaded" for unit in others}


def test_a_limit_leaves_the_rest_for_the_next_run(settings: Settings) -> None:
    report = run_pipeline(settings, DAYS[0], limit=5, say=lambda line: None)
    assert report["unplanned"] == 35
    assert report["found"] == {"pairs": 40, "already_fused": 0, "left": 35, "gone": 0}
    assert "left: 35 pairs that are in no unit" in report["text"]
    assert len(pairs_in(settings)) == 5
    assert report["whole"] is None
    report = run_pipeline(settings, DAYS[0], limit=20, say=lambda line: None)
    assert report["summary"]["rows_in"] == 20
    assert report["found"] == {"pairs": 40, "already_fused": 5, "left": 15, "gone": 0}
    assert report["whole"]["rows_in"] == 25
    assert "pairs: 20 = " in report["text"]
    assert "rejected in all runs of the interval" in report["text"]
    report = run_pipeline(settings, DAYS[0], say=lambda line: None)
    assert report["summary"]["rows_in"] == 15
    assert report["found"] == {"pairs": 40, "already_fused": 25, "left": 0, "gone": 0}
    assert len(pairs_in(settings)) == 40
    report = run_pipeline(settings, DAYS[0], limit=5, existing="replace", say=lambda line: None)
    assert report["whole"]["rows_in"] == 45
    assert "in all runs of the interval; 5 of them were replaced later\n" in report["text"]
    assert len(pairs_in(settings)) == 40


def test_a_unit_in_float8_is_refused_before_torchrun_starts_on_a_machine_without_a_gpu(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    unit, *_ = plan_only(settings.model_copy(update={"dtype": "float8"}), DAYS[0])
    with open_context(settings) as context, pytest.raises(InputError, match="float8 needs a GPU"):
        unit_tasks.fuse_argv(context, unit)


def test_another_prompt_gives_other_captions_beside_the_first_and_needs_its_file_at_planning_only(
    settings: Settings, tmp_path: Path
) -> None:
    run_pipeline(settings, DAYS[0], limit=9, say=lambda line: None)
    prompt = tmp_path / "prompt.txt"
    prompt.write_text("One: {raw}\nTwo: {synthetic}\nBoth:")
    [unit] = plan_only(settings.model_copy(update={"prompt": prompt}), DAYS[0])
    prompt.unlink()
    with open_context(settings) as context:  # the prompt's file is deleted; workers of a DAG run do not have it either
        launcher.run(unit_tasks.fuse_argv(context, unit), on_line=lambda line: None)
        unit_tasks.fuse_finished(context, unit)
        unit_tasks.validate(context, unit, accept_rejections=True)
        unit_tasks.load(context, unit)
    both = Counter(row["pair_id"] for row in pairs_in(settings))
    assert Counter(both.values()) == {1: 31, 2: 9}
    twice = (
        "select pair_id, count(distinct capsfusion) as captions from rejected_captions group by 1 having count(*) = 2"
    )
    assert [row["captions"] for row in rows(settings, twice)] == [2] * 9
    specs = rows(settings, "select spec->>'prompt_template' as prompt from fusions order by created_at")
    assert [row["prompt"][:10] for row in specs] == ["Please mer", "One: {raw}"]


def test_a_unit_that_the_gate_stops_waits_until_it_is_accepted(settings: Settings) -> None:
    stopped = run_command(settings, CAPSFUSION_GATE__MIN_ROWS="10")
    assert stopped.returncode == 2
    assert "1 shards or units failed, all others are done" in stopped.messages
    assert "40 of 40 captions of unit" in stopped.messages
    assert pairs_in(settings) == []
    [unit] = rows(settings, "select unit_id, state, error from work_units")
    assert unit["state"] == "failed"
    assert "truncated" in unit["error"]

    accepted = run_command(settings, "--accept-rejections", CAPSFUSION_GATE__MIN_ROWS="10")
    assert accepted.returncode == 0, accepted.messages
    [loaded] = rows(settings, "select unit_id, state, rejected, error from work_units")
    assert loaded == {"unit_id": unit["unit_id"], "state": "loaded", "rejected": 40, "error": None}


def run_command(settings: Settings, *more: str, **variables: str) -> Ended:
    given = {
        "CAPSFUSION_HOME": str(settings.home),
        "CAPSFUSION_WAREHOUSE_URL": plain_url(settings),
        "CAPSFUSION_MODEL": settings.model,
        "CAPSFUSION_MAX_NEW_TOKENS": "4",
        "CAPSFUSION_NUM_BEAMS": "1",
        "CAPSFUSION_LAION2B": settings.laion2b,
        "CAPSFUSION_LAION_COCO": settings.laion_coco,
    }
    # Needs a new process if a hub variable is given, because huggingface_hub reads variables when it is imported.
    call = capsfusion_process if "HF_HUB_OFFLINE" in variables else capsfusion
    return call("run", "--start", "2026-11-10", "--end", "2026-11-11", *more, **{**given, **variables})


def test_a_broken_shard_fails_alone_and_is_in_the_ledger(
    settings: Settings, sample: tuple[Path, SampleReport], tmp_path: Path
) -> None:
    raw = tmp_path / "raw"
    raw.mkdir()
    for file in Path(settings.laion2b).glob("*.parquet"):
        os.link(file, raw / file.name)
    when = DAYS[0].start.timestamp()
    for name, content in {"cut": next(raw.iterdir()).read_bytes()[:2000], "empty": b"", "junk": b"PAR1" * 9}.items():
        (raw / f"{name}.parquet").write_bytes(content)
        os.utime(raw / f"{name}.parquet", (when, when))
    command = run_command(settings, "--laion-2b", str(raw))
    assert command.returncode == 2, command.messages
    error = command.messages.strip().splitlines()[-1]
    assert error.startswith(
        "capsfusion: error: 3 shards or units failed, all others are done. The first error: shard laion_2b/"
    )
    failed = rows(settings, "select path, error from shards where state = 'failed' order by path")
    assert [row["path"] for row in failed] == ["cut.parquet", "empty.parquet", "junk.parquet"]
    assert all("cannot be read as Parquet" in row["error"] for row in failed)
    assert len(pairs_in(settings)) == 40


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({"CAPSFUSION_LAION2B": "/nowhere"}, "no folder /nowhere"),
        ({"CAPSFUSION_LAION2B": "gopher://x"}, "cannot read shards from gopher://x: give a folder, s3://"),
        ({"CAPSFUSION_LAION2B": "", "HF_HUB_OFFLINE": "1"}, "datasets/laion/relaion2B-en-research-safe: Cannot reach"),
        ({"CAPSFUSION_MODEL": "/nowhere"}, "no model at /nowhere"),
        ({"CAPSFUSION_PROMPT": "/nowhere.txt"}, "cannot read the prompt /nowhere.txt: No such file"),
        ({"CAPSFUSION_NUM_BEAMS": "many"}, "CAPSFUSION_NUM_BEAMS is 'many': expected a valid integer"),
        (
            {"CAPSFUSION_DTYPE": "float8", "CAPSFUSION_ENGINE": "transformers"},
            "CAPSFUSION_DTYPE is 'float8': float8 needs the native engine",
        ),
        ({"CAPSFUSION_WAREHOUSE_URL": "postgresql://me:secret@127.0.0.1:1/db"}, "127.0.0.1:1"),
        ({"CAPSFUSION_WAREHOUSE_URL": "mysql://h/db"}, "must be PostgreSQL"),
    ],
    ids=[
        "no source folder",
        "unknown source",
        "default source",
        "no model",
        "no prompt",
        "bad setting",
        "settings at odds",
        "no server",
        "other database",
    ],
)
def test_bad_configuration_is_one_line_and_exit_code_2(settings: Settings, env: dict[str, str], message: str) -> None:
    command = run_command(settings, **env)
    last = command.messages.strip().splitlines()[-1]
    if "127.0.0.1:1" in message:  # for such a server, a retry may help: exit code 75
        assert (command.returncode, last.partition("the warehouse")[0]) == (75, "capsfusion: not now: ")
    else:
        assert (command.returncode, last.partition(": error: ")[0]) == (2, "capsfusion")
    assert message in last
    assert "secret" not in command.messages
    assert "Traceback" not in command.messages


def test_a_mistyped_source_is_named_before_anything_is_said_about_the_list_that_an_earlier_run_made(
    done: Done, tmp_path: Path
) -> None:
    old = done.settings.laion_coco
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "notes.txt").touch()
    told = {}
    for name in ("missing", "coco", "/coco"):
        place = Path(old) if name == "/coco" else tmp_path / name
        options = ("--laion-coco", str(place), *(("--relist",) if name == "missing" else ()))
        more = {"CAPSFUSION_LAION_COCO_INCLUDE": "*.pq"} if name == "/coco" else {}
        ended = run_command(done.settings, *options, **more)
        assert ended.returncode == 2
        told[name] = ended.messages.strip().splitlines()
        assert "--relist" not in ended.messages
    assert told["missing"][-1].endswith(f"error: no folder {tmp_path}/missing: name the folder that has the files")
    assert told["coco"][-2:] == [
        f"discover: laion_coco has no shard at all in {tmp_path}/coco (*.parquet): 1 files do not match the side's"
        " include and exclude patterns, such as notes.txt",
        f"capsfusion: error: laion_coco has no readable shard at all in {tmp_path}/coco (*.parquet): correct the folder"
        f" or address, or its patterns. Earlier, the shards of this interval were listed from laion_coco {old}"
        " (*.parquet). If shards will arrive in the new place later, run the interval when they are there",
    ]
    assert f"has no readable shard at all in {old} (*.pq): correct the folder" in told["/coco"][-1]
    found = run_command(done.settings, "--laion-coco", done.settings.laion2b)
    assert "--relist (in Airflow: the Param relist)" in found.messages


def test_every_pair_of_the_sample_is_stored_as_it_came(done: Done, sample: tuple[Path, SampleReport]) -> None:
    expected = {
        (pair.url.replace("\0", "\ufffd"), pair.raw.replace("\0", "\ufffd"), pair.synthetic.replace("\0", "\ufffd"))
        for pair in make_sample(sample[1].parameters).pairs
    }
    found = {(row["image_url"], row["laion_2b"], row["laion_coco"]) for row in pairs_in(done.settings)}
    assert found == expected
