"""Tests estimates, which use waiting pairs and measured rates, and the budget that stops a run."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from capsfusion_tasks.decoding import Decoding
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.planning import unit_files
from capsfusion_tasks.planning.estimate import BENCHMARKS, Benchmark, Budget, Estimate, Rate, Work, benchmark_rate
from capsfusion_tasks.schemas import VALIDATED, Unit
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.rates import Spread
from tests.command import capsfusion
from tests.opened import forecast, interval_tasks

pytestmark = pytest.mark.slow

NOW = datetime(2026, 11, 10, 12, tzinfo=UTC)
DAYS = [Interval(start=NOW.replace(day=day, hour=0), end=NOW.replace(day=day + 1, hour=0)) for day in (10, 11, 12)]
RATE = Rate(Spread(500.0, 1000.0, 2000.0), "measured", Spread(0.9, 1.0, 1.1))
HOUR = Work(18_000, 3_600_000)  # at RATE


def test_hours_cost_and_finish_follow_from_the_rate() -> None:
    estimate = Estimate({"a": HOUR, "b": HOUR + HOUR}, RATE, NOW, gpus=6, price=2.5)
    assert estimate.total == Work(54_000, 10_800_000)
    assert estimate.gpu_hours == Spread(1.5, 3.0, 6.0)
    assert estimate.cost == 7.5
    assert estimate.finish == NOW + timedelta(minutes=30)
    assert estimate.text.splitlines() == [
        "a: 18,000 pairs, about 3,600,000 tokens",
        "b: 36,000 pairs, about 7,200,000 tokens",
        "GPU hours: 3 (1.5 to 6), at 1,000 tokens/s per device",
        "rate: measured",
        "the measured units had 1.00 times the estimated tokens (0.90 to 1.10)",
        "cost: 7.50 at 2.50 a GPU hour",
        "time: 30 min with 6 devices busy (done 2026-11-10 12:30 UTC if started now), plus the time to start each unit",
    ]


def test_what_is_not_known_is_not_told() -> None:
    estimate = Estimate({"a": HOUR}, None, NOW, gpus=1, price=2.5)
    assert (estimate.gpu_hours, estimate.cost, estimate.finish) == (None, None, None)
    assert "GPU hours: unknown" in estimate.text
    assert "cost:" not in Estimate({"a": HOUR}, RATE, NOW, gpus=1).text
    assert "time:" not in Estimate({"a": HOUR}, RATE, NOW).text


def released(**changes: object) -> Decoding:
    """The decoding of the released model on a GPU, with ``changes``."""
    shown = {"model": "BAAI/CapsFus-LLaMA", "model_revision": "c", "location": "c", "prompt_digest": "p"}
    shape = {"model_digest": "m", "tokenizer_digest": "t", "dtype": "bfloat16", "eos_ids": (2,)}
    return Decoding.of(**{**shown, **shape, "engine": "native", "num_beams": 3, "max_new_tokens": 80, **changes})


def test_a_model_without_measured_units_goes_by_a_benchmark_and_says_so() -> None:
    rate = benchmark_rate(released(engine="transformers"))
    assert rate is not None
    estimate = Estimate({"a": Work(3744, 3744 * 196)}, rate, NOW)
    assert estimate.gpu_hours is not None
    assert estimate.gpu_hours.median == pytest.approx(1)
    assert "script on an A100-40G (no unit with these settings is measured yet)" in estimate.text
    native = benchmark_rate(released())
    assert native is not None
    assert native.tokens_per_second.median > 100 * rate.tokens_per_second.median
    assert benchmark_rate(released(max_new_tokens=40, keep_beams=True)) == native
    assert benchmark_rate(released(dtype="float8")) != native


@pytest.mark.parametrize(
    "changes",
    [{"model": "x/y"}, {"dtype": "float32"}, {"num_beams": 16}, {"max_new_tokens": 1024}],
    ids=lambda changes: next(iter(changes)),
)
def test_no_benchmark_speaks_for_settings_that_it_did_not_have(changes: dict[str, object]) -> None:
    estimate = Estimate({"a": Work(1, 196)}, benchmark_rate(released(**changes)), NOW)
    assert estimate.gpu_hours is None
    with pytest.raises(InputError, match=r"the budget .* cannot be checked, .* run once with a limit"):
        Budget(max_gpu_hours=10).check(estimate)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        (
            Budget(max_gpu_hours=0.5),
            r"over budget: estimated GPU hours 1, allowed 0\.5, for 18,000 pairs, .* a limit of about 9,000 pairs",
        ),
        (Budget(max_gpu_hours=0), r"over budget: .* Raise the budget: it is not enough for one pair"),
        (Budget(max_cost=2.0), r"estimated cost 2\.5, allowed 2, for "),
        (Budget(max_gpu_hours=2, max_cost=2.4), r"estimated cost 2\.5, allowed 2\.4, for "),
    ],
)
def test_more_than_the_budget_is_refused_with_what_to_do(budget: Budget, said: str) -> None:
    with pytest.raises(InputError, match=said):
        budget.check(Estimate({"a": HOUR}, RATE, NOW, price=2.5))


def test_a_budget_that_cannot_be_checked_is_no_permission() -> None:
    with pytest.raises(InputError, match=r"cannot be checked.*run once with a limit .* without a budget"):
        Budget(max_gpu_hours=5).check(Estimate({"a": HOUR}, None, NOW))
    with pytest.raises(InputError, match="needs a price: set CAPSFUSION_GPU_HOUR_PRICE"):
        Budget(max_cost=5).check(Estimate({"a": HOUR}, RATE, NOW))


def test_what_keeps_the_budget_passes() -> None:
    Budget().check(Estimate({"a": HOUR}, None, NOW))
    Budget(max_gpu_hours=1, max_cost=2.5).check(Estimate({"a": HOUR}, RATE, NOW, price=2.5))
    Budget(max_gpu_hours=0).check(Estimate({"a": Work()}, None, NOW))


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with sample shards of three days, 40 pairs each."""
    folder = tmp_path_factory.mktemp("sample") / "shards"
    write_sample_data(folder, rows_per_day=40)
    return folder


@pytest.fixture
def settings(shards: Path, tiny_model: Path, warehouse_url: str, tmp_path: Path) -> Settings:
    return load_settings(
        laion2b=str(shards / "laion-2b"),
        laion_coco=str(shards / "laion-coco"),
        model=str(tiny_model),
        num_beams=1,
        max_new_tokens=4,
        buckets=2,
        warehouse_url=warehouse_url,
        home=tmp_path,
    )


def pair(settings: Settings, interval: Interval) -> None:
    found = interval_tasks.discover(settings, interval)
    for shard in found:
        interval_tasks.pull(settings, shard)
    for buckets in interval_tasks.bucket_groups(settings):
        interval_tasks.pair(settings, interval, buckets)


def waiting(settings: Settings, within: Interval | None = None) -> list[int]:
    """The numbers of two kinds of waiting pairs: planned but not fused, and not yet planned."""
    return [work.rows for work in forecast.estimate(settings, within).work.values()]


def test_what_is_waiting_is_told_at_each_stage(settings: Settings) -> None:
    shards = interval_tasks.discover(settings, DAYS[0])
    before = forecast.estimate(settings)
    assert (before.total.rows, before.unpaired_shards) == (0, len(shards))
    assert before.unpaired_bytes == sum(shard.size_bytes for shard in shards)
    assert f"not counted: {len(shards)} shards" in before.text
    pair(settings, DAYS[0])
    assert waiting(settings) == [0, 40]
    assert forecast.estimate(settings).unpaired_shards == 0
    [unit] = interval_tasks.plan(settings, DAYS[0], limit=5)
    assert waiting(settings) == [5, 35]
    assert forecast.estimate(settings).work["planned, not fused"].tokens == unit.tokens
    pair(settings, DAYS[1])
    assert waiting(settings)[1] > 40
    assert waiting(settings, DAYS[0]) == [5, 35]
    assert waiting(settings, DAYS[2]) == [0, 0]


def test_a_pair_of_two_intervals_waits_once(settings: Settings) -> None:
    for day in DAYS[:2]:
        pair(settings, day)
    days = waiting(settings)[1]
    pair(settings, Interval(start=DAYS[0].start, end=DAYS[1].end))
    assert waiting(settings) == [0, days]


def fuse_and_load(settings: Settings, unit: Unit, seconds: float) -> None:
    """Record that the unit took ``seconds`` seconds of one device, and load it."""
    pairs = Storage(settings.staging_uri).read_table(layout.unit_pairs(unit.unit_id)).to_pylist()
    blank = {"capsfusion": "a", "finish_reason": "stop", "prompt_tokens": 1, "caption_tokens": 1}
    made = [{**blank, "flags": [], "reasons": [], **pair} for pair in pairs]
    rows = pa.Table.from_pylist(made, schema=VALIDATED)
    with open_warehouse(settings) as warehouse:
        with warehouse.engine.begin() as connection:
            ledger.unit_fused(connection, unit.unit_id, {"gpu_seconds": seconds})
        load_unit(warehouse, unit.unit_id, rows)


def test_after_a_run_the_rest_waits_and_goes_by_its_rate(settings: Settings) -> None:
    pair(settings, DAYS[0])
    [unit] = interval_tasks.plan(settings, DAYS[0], limit=5)
    fuse_and_load(settings, unit, seconds=7200.0)
    rest = forecast.estimate(settings)
    assert [work.rows for work in rest.work.values()] == [0, 35]
    assert rest.rate is not None
    assert rest.rate.source == "the only measured unit with these settings"
    assert rest.gpu_hours is not None
    assert rest.gpu_hours.median == pytest.approx(2 * rest.total.tokens / unit.tokens)
    assert forecast.estimate(settings, rows_per_second=0.01).gpu_hours != rest.gpu_hours
    for unit in interval_tasks.plan(settings, DAYS[0]):
        fuse_and_load(settings, unit, seconds=7200.0)
    assert waiting(settings) == [0, 0]


def test_a_run_over_its_budget_plans_nothing_and_one_within_it_is_planned(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair(settings, DAYS[0])
    fusion = decide(settings)
    monkeypatch.setattr(unit_files, "UNIT_TOKENS_AT_FIRST", 1000)
    key = (fusion.model, fusion.engine, fusion.dtype, fusion.num_beams)
    monkeypatch.setitem(BENCHMARKS, key, Benchmark(1.0, 50.0, "a test's"))
    estimates: list[Estimate] = []
    for existing in ("skip", "replace"):
        with pytest.raises(InputError, match=r"over budget: .* allowed 0\.001, for 40 pairs, "):
            interval_tasks.plan(
                settings, DAYS[0], existing=existing, budget=Budget(max_gpu_hours=0.001), on_estimate=estimates.append
            )
    assert [estimate.total.rows for estimate in estimates] == [40, 40]
    storage = Storage(settings.staging_uri)
    assert storage.folders("units") == []
    assert waiting(settings) == [0, 40]
    units = interval_tasks.plan(settings, DAYS[0], budget=Budget(max_gpu_hours=0.02))
    assert sum(unit.rows for unit in units) == 40
    assert storage.exists(layout.unit_pairs(units[0].unit_id))
    # The budget also limits units that an earlier try has planned but not fused. Fused units cost nothing.
    with pytest.raises(InputError, match=r"over budget: .* for 40 pairs"):
        interval_tasks.plan(settings, DAYS[0], budget=Budget(max_gpu_hours=0.001))
    with open_warehouse(settings) as warehouse, warehouse.engine.begin() as connection:
        for unit in units:
            ledger.unit_fused(connection, unit.unit_id, {})
    assert interval_tasks.plan(settings, DAYS[0], budget=Budget(max_gpu_hours=0.001)) == units


def command(settings: Settings, *arguments: str) -> subprocess.CompletedProcess[str]:
    ended = capsfusion(*arguments, **settings.environment())
    return subprocess.CompletedProcess(arguments, ended.returncode, ended.stdout.decode(), ended.messages)


@pytest.mark.slow
def test_plan_on_the_command_line(settings: Settings) -> None:
    pair(settings, DAYS[0])
    asked = ("--start", "2026-11-10", "--gpus", "4", "--price-per-gpu-hour", "2", "--rows-per-second", "0.5")
    as_json = command(settings, "plan", *asked, "--format", "json")
    assert as_json.returncode == 0, as_json.stderr
    found = json.loads(as_json.stdout)
    assert (found["rows"], found["gpus"]) == (40, 4)
    assert found["cost"] == pytest.approx(2 * found["gpu_hours"]["median"])
    text = command(settings, "plan")
    assert "paired, not planned: 40 pairs" in text.stdout
    assert "GPU hours: unknown, no unit with these settings is measured yet" in text.stdout
    assert "/tiny, native, float32, 1 beam, at most 4 tokens; fusion " in text.stdout
    stopped = command(settings, "run", "--start", "2026-11-10", "--end", "2026-11-11", "--max-gpu-hours", "1")
    assert stopped.returncode == 2
    assert "the budget (GPU hours: at most 1) cannot be checked" in stopped.stderr
    assert waiting(settings) == [0, 40]
