"""Breaks each invariant in files and tables. `capsfusion check` finds the damage, and repairs it if that is safe."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.context import open_context
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.shards import discovery
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep import evidence, units
from capsfusion_tasks.warehouse import ownership
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.queries import Scope
from tests.opened import check, interval_tasks, unit_tasks
from tests.upkeep.conftest import DAYS, Area, plan_day


def first(folder: Path, pattern: str) -> Path:
    return sorted(folder.glob(pattern))[0]


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without_last_row(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows - 1), file)


def copy_to_bucket(file: Path, bucket: str) -> None:
    (file.parent.parent / bucket).mkdir()
    (file.parent.parent / bucket / file.name).write_bytes(file.read_bytes())


def test_nothing_is_wrong_where_nothing_is_broken(area: Area) -> None:
    result = area.check(footers=True, pairs=True)
    assert [*result.lines()][-1] == "nothing is wrong"
    assert result.looked_at["intervals"] == 3
    [counts] = result.pairs.values()
    assert counts["in the warehouse"] > counts["in units"] > 0
    assert (counts["waiting for a run"], counts["left for a limit"], counts["lost"]) == (0, 0, 0)
    for side, rows in result.rows.items():
        assert sum(rows.values()) == area.one(f"select sum(rows) from shards where side = '{side}'")
        assert 0 < result.paired[side] <= rows["in buckets"]


def test_an_empty_area_is_as_it_should_be(area: Area, tmp_path: Path) -> None:
    area.execute("truncate work_units, shards, plans cascade")
    empty = area.with_settings(home=tmp_path / "none")
    assert check(empty, pairs=True).findings == []


def test_an_area_that_is_not_mounted_is_told_and_nothing_repaired(area: Area, tmp_path: Path) -> None:
    units = area.one("select count(*) from work_units")
    with pytest.raises(InputError, match=r"mount the right staging area, or set CAPSFUSION_STAGING"):
        check(area.with_settings(home=tmp_path / "none"), repair=True)
    assert area.one("select count(*) from work_units") == units


BUCKET_FILE = "buckets/laion_2b/00*/*.parquet"

FILES_BROKEN: dict[str, tuple[Callable[[Area], Any], list[str], bool]] = {
    "a writer's temporary file": (
        lambda area: (area.staging / "runs/.shards.json.x1.unpublished").write_bytes(b"half"),
        ["temporary-file"],
        True,
    ),
    "a bucket file is gone": (lambda area: first(area.staging, BUCKET_FILE).unlink(), ["bucket-file-missing"], False),
    "a bucket file is empty": (
        lambda area: first(area.staging, BUCKET_FILE).write_bytes(b""),
        ["bucket-file-unreadable"],
        False,
    ),
    "a bucket file of a shard that nobody knows": (
        lambda area: area.storage.write_table(
            "buckets/laion_coco/00001/0123456789abcdef.parquet",
            area.storage.read_table("buckets/" + first(area.staging, BUCKET_FILE).as_posix().split("buckets/")[1]),
        ),
        ["bucket-files-of-unknown-shard"],
        False,
    ),
    # Earlier versions left such files if a pull was killed.
    "a bucket file that the pull of its shard does not name": (
        lambda area: copy_to_bucket(first(area.staging, BUCKET_FILE), "00099"),
        ["bucket-file-unexpected"],
        True,
    ),
    "the sign that a shard is there whole is gone": (
        lambda area: first(area.staging, "buckets/laion_2b/pulled/*").unlink(),
        ["shard-lost"],
        False,
    ),
    "a list of shards is half there": (
        lambda area: cut_short(first(area.staging, "runs/*/shards.json")),
        ["bucket-files-of-unknown-shard", "list-unreadable"],
        False,
    ),
    "some pairs of an interval are gone": (
        lambda area: first(area.staging, "runs/*/pairs/*").unlink(),
        ["pairs-incomplete"],
        False,
    ),
    "a folder of a unit that nobody knows": (
        lambda area: area.storage.write_json("units/20261101-0-0-0/chunks/00000.parquet", {}),
        ["unit-unknown"],
        False,
    ),
    "a planned unit has no pairs": (
        lambda area: area.storage.delete(layout.unit_pairs(area.planned)),
        ["unit-pairs"],
        True,
    ),
    "a planned unit has fewer pairs": (
        lambda area: without_last_row(area.staging / layout.unit_pairs(area.planned)),
        ["unit-pairs"],
        True,
    ),
}


@pytest.mark.parametrize("name", FILES_BROKEN)
def test_a_broken_file_is_found(area: Area, name: str) -> None:
    break_it, rules, is_repaired = FILES_BROKEN[name]
    break_it(area)
    result = area.check(repair=True)
    assert sorted({finding.rule for finding in result.findings}) == rules
    assert all(finding.mend for finding in result.findings)
    if is_repaired:
        assert result.left == []
        assert area.rules() == []


LEDGER_BROKEN = {
    "captions are gone": (
        "delete from rejected_captions where pair_id in (select pair_id from rejected_captions limit 1)",
        ["tables"],
    ),
    "captions of a unit that is not loaded": (
        "update work_units set state = 'fused', accepted = null where unit_id = (select min(unit_id) from work_units)",
        ["tables", "unit-waiting"],
    ),
    "a unit failed": (
        "update work_units set state = 'failed', error = 'no GPU' where state = 'planned'",
        ["unit-failed"],
    ),
    "a shard failed": (
        "update shards set state = 'failed', error = 'no Parquet' where path = (select min(path) from shards)",
        ["shard-failed"],
    ),
    "a shard is not noted as pulled": (
        "update shards set state = 'discovered' where path = (select min(path) from shards)",
        ["shard-not-pulled"],
    ),
    "a shard has another count": (
        "update shards set rows = rows + 1 where path = (select min(path) from shards)",
        ["shard-counts-differ"],
    ),
    "an interval was never planned": (
        "delete from plans where interval_start = (select min(interval_start) from plans)",
        ["never-planned"],
    ),
    "the ledger has no shards": ("delete from shards", ["shard-not-in-ledger"]),
}


@pytest.mark.parametrize("name", LEDGER_BROKEN)
def test_a_broken_row_is_found(area: Area, name: str) -> None:
    statement, rules = LEDGER_BROKEN[name]
    area.execute(statement)
    assert area.rules() == rules
    # The broken unit or shard belongs to one of the days. A check of that day alone must find it, too.
    scoped = [check(area.settings, Scope(interval=day), safe_age=timedelta(0)) for day in DAYS]
    assert sorted({finding.rule for result in scoped for finding in result.findings}) == rules


def test_a_pair_that_is_accepted_and_rejected_is_found_where_pairs_are_looked_at(area: Area) -> None:
    names = ", ".join(column.name for column in fused_captions.columns if column.name in rejected_captions.columns)
    area.execute(
        "create temp table twins as select * from rejected_captions limit 1",
        f"insert into fused_captions ({names}) select {names} from twins",
        "update work_units set superseded = -1 where unit_id = (select unit_id from twins)",
    )
    assert area.rules() == []
    [finding] = area.check(pairs=True).findings
    assert "a pair is accepted or rejected, not both" in finding.what


def test_the_rows_of_a_bucket_file_are_counted_where_footers_are_read(area: Area) -> None:
    file = first(area.staging, BUCKET_FILE)
    whole = file.read_bytes()
    for harm, rule in ((without_last_row, "bucket-file-rows"), (cut_short, "bucket-file-unreadable")):
        file.write_bytes(whole)
        harm(file)
        assert area.rules() == []
        assert area.rules(footers=True) == [rule]


def test_a_shard_whose_bucket_file_is_lost_is_pulled_again(area: Area) -> None:
    lost = first(area.staging, BUCKET_FILE)
    lost.unlink()
    [finding] = area.check(repair=True).findings
    assert str(lost).endswith(finding.where)
    assert area.rules() == ["shard-not-pulled"]
    for day in DAYS:
        plan_day(area.settings, day)
    assert lost.exists()
    assert area.rules(footers=True, pairs=True) == []


def test_lost_pairs_are_found_and_a_limit_explains_those_that_it_left(area: Area) -> None:
    gone = area.unit(area.planned)
    area.execute(f"delete from work_units where unit_id = '{gone.unit_id}'")
    result = area.check(pairs=True)
    [lost] = [finding for finding in result.findings if finding.rule == "pairs-lost"]
    assert f"{gone.rows} pairs of the interval are neither" in lost.what
    assert DAYS[2].start.strftime("%Y-%m-%dT%H:%M:%S") in lost.mend

    area.execute("delete from work_units where state <> 'loaded'")
    plan_day(area.settings, DAYS[2], limit=3)
    result = area.check(pairs=True)
    # The check finds only the files of the units whose rows were deleted. No pair counts as lost.
    assert {finding.rule for finding in result.findings} == {"unit-unknown"}
    [counts] = result.pairs.values()
    assert counts["in units"] == 3
    assert counts["left for a limit"] > 0


def test_a_shard_that_came_after_its_interval_was_listed_is_found_and_the_advice_helps(area: Area) -> None:
    assert area.rules(sources=True) == []
    late = area.shards / FOLDER["laion_2b"] / "late.parquet"
    pq.write_table(pa.table({"URL": ["http://late/1.jpg"], "TEXT": ["late"]}), late)
    try:
        noon = (DAYS[0].start + timedelta(hours=12)).timestamp()
        os.utime(late, (noon, noon))
        assert area.rules() == []
        [finding] = area.check(sources=True).findings
        assert (finding.rule, finding.where) == ("shard-late", "laion_2b/late.parquet")
        assert finding.mend == f"wait for the next run, which includes the shard, or run {DAYS[0].command} --relist"
        interval_tasks.discover(area.settings, DAYS[0], relist=True)
        area.run_day(DAYS[0])
        assert area.rules(sources=True) == []
        assert area.one("select state from shards where path = 'late.parquet'") == "pulled"
    finally:
        late.unlink()


def test_a_unit_that_nobody_fuses_is_put_back_and_one_that_somebody_fuses_is_not(area: Area) -> None:
    unit = area.unit(area.planned)
    unit_tasks.fuse_started(area.settings, unit)
    with unit_tasks.at_work(area.settings, unit):
        assert area.rules(repair=True) == []
    [finding] = area.check().findings
    assert (finding.rule, finding.where) == ("unit-stuck", unit.unit_id)
    assert area.check(repair=True).left == []
    assert area.one(f"select state from work_units where unit_id = '{unit.unit_id}'") == "planned"


def test_a_fuse_task_does_not_wait_long_for_a_planning_that_has_its_unit(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "_PATIENCE_SECONDS", 0.2)
    unit = area.unit(area.planned)
    with open_warehouse(area.settings) as warehouse, ownership.alone_with(warehouse.engine, unit.unit_id):
        expected = f"another process is planning or repairing unit {unit.unit_id}"
        with pytest.raises(NotReadyError, match=expected), unit_tasks.at_work(area.settings, unit):
            pass


def test_a_unit_that_is_fused_during_a_check_is_not_broken(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    unit, marks = area.planned, evidence._marks

    def fused_meanwhile(*arguments: Any) -> Any:
        area.fuse(unit)
        return marks(*arguments)

    monkeypatch.setattr(evidence, "_marks", fused_meanwhile)
    assert [finding.rule for finding in area.check(repair=True).findings] == ["unit-waiting"]
    assert area.one(f"select state from work_units where unit_id = '{unit}'") == "fused"


def test_a_unit_that_was_fused_since_the_check_is_not_put_back(area: Area) -> None:
    unit = area.unit(area.planned)
    unit_tasks.fuse_started(area.settings, unit)
    with open_context(area.settings) as context:
        options = (context.settings, context.storage, context.warehouse, Scope(), timedelta(0))
        [stuck] = units.findings(evidence.gather(*options))
        area.fuse(unit.unit_id)
        assert stuck.repair is not None
        assert stuck.repair().startswith("kept: ")
        chunk = first(area.staging, layout.chunks_folder(unit.unit_id) + "/*")
        whole = chunk.read_bytes()
        chunk.unlink()
        [lacks] = units.findings(evidence.gather(*options))
        chunk.write_bytes(whole)
        assert lacks.repair is not None
        assert (lacks.rule, lacks.repair()) == ("unit-chunks", "kept: its chunks have all rows now")
        assert lacks.what.endswith("the first of them is row 1")
    assert area.one(f"select state from work_units where unit_id = '{unit.unit_id}'") == "fused"


def test_nothing_of_a_unit_that_somebody_fuses_is_repaired(area: Area) -> None:
    unit = area.unit(area.planned)
    area.fuse(unit.unit_id)
    area.execute("update work_units set state = 'fusing' where state = 'fused'")
    chunk = first(area.staging, layout.chunks_folder(unit.unit_id) + "/*")
    cut_short(chunk)
    with unit_tasks.at_work(area.settings, unit):
        assert [finding.rule for finding in area.check(repair=True).left] == ["chunk-broken"]
    assert chunk.exists()


@pytest.mark.parametrize(
    ("harm", "rules"),
    [
        (lambda area, unit: cut_short(first(area.staging, f"{layout.chunks_folder(unit)}/*")), ["chunk-broken"]),
        (lambda area, unit: without_last_row(first(area.staging, f"{layout.chunks_folder(unit)}/*")), []),
        (lambda area, unit: first(area.staging, f"{layout.chunks_folder(unit)}/*").unlink(), []),
        (lambda area, unit: cut_short(area.staging / layout.unit_validated(unit)), ["validated-broken"]),
        (lambda area, unit: without_last_row(area.staging / layout.unit_validated(unit)), ["validated-broken"]),
    ],
    ids=["chunk cut short", "chunk of fewer rows", "chunk gone", "verdicts cut short", "fewer verdicts"],
)
def test_what_is_broken_of_a_fused_unit_is_made_again(
    area: Area, harm: Callable[[Area, str], None], rules: list[str]
) -> None:
    unit = area.unit(area.planned)
    area.fuse(unit.unit_id)
    unit_tasks.validate(area.settings, unit)
    assert area.rules() == ["unit-waiting"]
    harm(area, unit.unit_id)
    result = area.check(repair=True)
    expected = sorted([*rules, "unit-waiting" if "validated-broken" in rules else "unit-chunks"])
    assert sorted(finding.rule for finding in result.findings) == expected
    assert {finding.rule for finding in result.left} <= {"unit-waiting"}
    area.fuse(unit.unit_id)
    unit_tasks.validate(area.settings, unit)
    assert area.rules() == ["unit-waiting"]


def with_the_pairs(area: Area, unit_id: str, pairs: pa.Table) -> None:
    """Add a unit of these pairs, which are also in other units, beside the planned unit."""
    area.storage.write_table(layout.unit_pairs(unit_id), pairs, {"capsfusion.buckets": "any"})
    area.execute(
        "insert into work_units (unit_id, fusion_id, interval_start, interval_end, rows_in, tokens_estimated)"
        f" select '{unit_id}', fusion_id, interval_start, interval_end, {pairs.num_rows}, 0 from work_units"
        f" where unit_id = '{area.planned}'"
    )


def test_one_repair_leaves_each_pair_in_one_unit(area: Area) -> None:
    planned = area.storage.read_table(layout.unit_pairs(area.planned))
    another = planned.slice(0, 1).set_column(0, planned.schema.field(0), pa.array([bytes(16)], pa.binary(16)))
    with_the_pairs(area, "zz-1", planned)
    with_the_pairs(area, "zz-2", pa.concat_tables([planned.slice(0, 2), another]))
    with_the_pairs(area, "zz-3", another)  # only zz-2, which is dropped, has this pair too
    found = area.check(repair=True)
    assert [(finding.rule, finding.where, finding.what.split()[0]) for finding in found.findings] == [
        ("pair-in-two-units", "zz-1", f"{planned.num_rows}"),
        ("pair-in-two-units", "zz-2", "2"),
    ]
    assert found.left == []
    assert area.rules() == []
    assert area.one("select string_agg(unit_id, ' ') from work_units where unit_id like 'zz%'") == "zz-3"


def test_the_repair_of_a_replays_unit_says_who_plans_its_pairs_again(area: Area) -> None:
    area.execute(
        "update work_units set replay = 'again', replay_of = fusion_id, interval_start = null, interval_end = null"
        f" where unit_id = '{area.planned}'"
    )
    area.storage.delete(layout.unit_pairs(area.planned))
    [said] = area.check(repair=True).repaired.values()
    assert "once the replay 'again' has no unfinished unit, the next run plans the unit's pairs again" in said


def test_a_unit_whose_pairs_were_lost_is_planned_again(area: Area) -> None:
    rows = area.one("select sum(rows_in) from work_units")
    area.storage.delete(layout.unit_pairs(area.planned))
    assert area.check(repair=True).left == []
    area.run_day(DAYS[2])
    area.run_day(DAYS[2])  # the first run finishes planned units, the second run plans the lost pairs
    assert area.rules(pairs=True) == []
    assert area.one("select sum(rows_in) from work_units") == rows


def test_young_files_may_be_somebodys_who_is_at_work(area: Area) -> None:
    FILES_BROKEN["a writer's temporary file"][0](area)
    FILES_BROKEN["a folder of a unit that nobody knows"][0](area)
    assert check(area.settings).findings == []


def test_the_command_says_what_is_wrong_and_how_to_mend_it(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in area.settings.environment().items():
        monkeypatch.setenv(name, value)
    run = CliRunner().invoke
    assert run(app, ["check"]).exit_code == 0
    unit = area.unit(area.planned)
    unit_tasks.fuse_started(area.settings, unit)
    found = run(app, ["check"])
    assert found.exit_code == 1
    assert f"unit-stuck: {unit.unit_id}: the unit is in state fusing, but no process holds its lock" in found.output
    assert "to repair it: capsfusion check --repair, or capsfusion run --start 2026-11-12T00:00:00" in found.output
    as_json = run(app, ["check", "--format", "json"])
    assert as_json.exit_code == 1
    [finding] = json.loads(as_json.stdout)["findings"]
    assert (finding["rule"], finding["where"], finding["repaired"]) == ("unit-stuck", unit.unit_id, None)
    assert run(app, ["check", "--start", "2026-11-10", "--end", "2026-11-12"]).exit_code == 0
    repaired = run(app, ["check", "--repair"])
    assert repaired.exit_code == 0
    assert "repaired: set to planned" in repaired.output
    assert run(app, ["check"]).exit_code == 0


def test_an_area_on_s3_is_checked_too(area: Area, s3_bucket: str) -> None:
    remote = area.copied_to(f"{s3_bucket}/checked")
    storage = Storage(remote.staging_uri)
    assert check(remote, footers=True, pairs=True, safe_age=timedelta(0)).findings == []
    storage.delete(layout.unit_pairs(area.planned))
    [finding] = check(remote, safe_age=timedelta(0), repair=True).findings
    assert finding.rule == "unit-pairs"
    assert check(remote, safe_age=timedelta(0)).findings == []


def test_a_unit_is_planned_again_only_after_its_files_are_gone(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    unit_id = area.planned
    delete_folder, in_ledger = Storage.delete_folder, []

    def seen(storage: Storage, path: str) -> None:
        in_ledger.append(area.one(f"select count(*) from work_units where unit_id = '{unit_id}'"))
        delete_folder(storage, path)

    monkeypatch.setattr(Storage, "delete_folder", seen)
    area.storage.delete(layout.unit_pairs(unit_id))
    area.check(repair=True)
    assert in_ledger == [1]
    assert area.planned != unit_id


@pytest.mark.parametrize("error", [OSError(errno.ESTALE, "Stale file handle"), OSError("AWS Error NETWORK_CONNECTION")])
def test_a_temporary_error_deletes_no_captions(area: Area, monkeypatch: pytest.MonkeyPatch, error: OSError) -> None:
    footer, errors = Storage.footer, [error]

    def fails_once(storage: Storage, path: str) -> tuple[dict[str, str], int]:
        if path == layout.unit_pairs(area.planned) and errors:
            raise errors.pop()
        return footer(storage, path)

    monkeypatch.setattr(Storage, "footer", fails_once)
    if error.errno is None:  # pyarrow has no error number for S3, so the file counts as broken until it is read again
        result = area.check(repair=True)
        assert [finding.rule for finding in result.findings] == ["unit-pairs"]
        assert list(result.repaired.values()) == ["kept: its pairs can be read now, so the error was temporary"]
    else:
        with pytest.raises(NotReadyError, match=r"cannot read .*/pairs\.parquet now: Stale file handle"):
            area.check(repair=True)
    assert not errors
    assert area.check().findings == []


def test_a_run_ends_with_a_check_of_its_interval_that_leaves_failures_to_the_report(area: Area) -> None:
    shard = interval_tasks.discover(area.settings, DAYS[0])[0]
    first(area.staging, f"buckets/{shard.side}/00*/{shard.shard_id}.parquet").unlink()
    area.execute(
        "update work_units set state = 'failed', error = 'no GPU'"
        " where unit_id = (select min(unit_id) from work_units where state = 'planned')"
    )
    found = {day: interval_tasks.check(area.settings, day) for day in DAYS}
    assert [len(result["findings"]) for result in found.values()] == [1, 0, 0]
    assert f"check: bucket-file-missing: buckets/{shard.side}/" in found[DAYS[0]]["text"]
    assert found[DAYS[2]]["text"].endswith("check: nothing is wrong")


def test_a_check_of_an_interval_reads_only_its_files(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def watch(name: str) -> None:
        original = getattr(Storage, name)

        def reading(self: Storage, path: str = "", **options: Any) -> Any:
            read.append(path)
            return original(self, path, **options)

        monkeypatch.setattr(Storage, name, reading)

    foreign = {day.key for day in DAYS[:2]}
    foreign |= {shard.shard_id for day in DAYS[:2] for shard in discovery.discovered(day, area.storage)}
    foreign |= {name for name in area.storage.folders("units") if not name.startswith("20261112")}
    for name in ("tree", "sizes", "read_json", "footer", "read_table", "_info"):
        watch(name)
    assert interval_tasks.check(area.settings, DAYS[2])["findings"] == []
    assert f"runs/{DAYS[2].key}" in read
    assert "" not in read, "the whole area is listed"
    assert not [path for path in read if any(name in path for name in foreign)]


def test_a_lost_connection_does_not_end_the_work_and_the_lock_comes_back(
    area: Area, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(ownership, "_BEAT_SECONDS", 0.05)
    unit = area.unit(area.planned)
    unit_tasks.fuse_started(area.settings, unit)
    with unit_tasks.at_work(area.settings, unit), open_warehouse(area.settings) as warehouse:
        holder = area.one("select pid from pg_locks where locktype = 'advisory'")
        area.execute(f"select pg_terminate_backend({holder})")  # the call may return before the session has ended
        while area.one(f"select count(*) from pg_locks where locktype = 'advisory' and pid <> {holder}") == 0:
            pass
        assert ownership.abandoned_units(warehouse.engine) == []
    with open_warehouse(area.settings) as warehouse:
        assert ownership.abandoned_units(warehouse.engine) == [unit.unit_id]
