"""`capsfusion gc` deletes old files, and never files that are needed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.context import open_context
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.upkeep import garbage
from capsfusion_tasks.upkeep.garbage import Collection
from capsfusion_tasks.warehouse import ledger
from tests.opened import collect, unit_tasks
from tests.upkeep.conftest import DAYS, Area

NOW = timedelta(0)


def collect_all(settings: Settings, *, delete: bool = True, keep_days: float = 0) -> Collection:
    days = settings.model_copy(update={"keep_units_days": keep_days})
    return collect(days, safe_age=NOW, delete=delete)


def kinds(collection: Collection) -> set[str]:
    return {one.kind for one in collection.found}


def loaded_units(area: Area) -> list[str]:
    return str(area.one("select string_agg(unit_id, ' ') from work_units where state = 'loaded'")).split()


@pytest.mark.slow
def test_files_of_loaded_units_go_and_everything_runs_as_before(area: Area) -> None:
    loaded = loaded_units(area)
    rows = area.one("select count(*) from rejected_captions") + area.one("select count(*) from fused_captions")
    collection = collect_all(area.settings)
    assert {one.where for one in collection.found} == {f"units/{unit_id}" for unit_id in loaded}
    assert area.storage.folders("units") == [area.planned, *area.storage.folders("units")[1:]]
    assert not {*area.storage.folders("units")} & {*loaded}
    assert area.rules(footers=True, pairs=True) == []

    # If a task of a loaded unit is cleared and runs again, it finds that the unit is already loaded.
    unit = area.unit(loaded[0])
    assert unit_tasks.fused_and_loaded(area.settings, unit) is not None
    verdicts = unit_tasks.validate(area.settings, unit)
    assert (verdicts["rows"], verdicts["already_loaded"]) == (unit.rows, True)
    assert unit_tasks.load(area.settings, unit)["already_loaded"] is True
    # A second run of a loaded day has nothing to do. A run of the planned day finishes it.
    area.run_day(DAYS[0])
    area.run_day(DAYS[2])
    more = area.one("select count(*) from rejected_captions") + area.one("select count(*) from fused_captions")
    assert more - rows == area.one(
        "select sum(rows_in) from work_units where interval_start = '2026-11-12T00:00:00Z'::timestamptz"
    )
    assert area.rules(pairs=True) == []


def test_units_are_kept_for_a_while_and_as_long_as_their_interval_is_not_finished(area: Area) -> None:
    assert collect_all(area.settings, keep_days=14).found == []
    area.execute("update work_units set loaded_at = loaded_at - interval '15 days' where state = 'loaded'")
    assert len(collect_all(area.settings, delete=False, keep_days=14).found) == len(loaded_units(area))
    area.execute(
        "update work_units set interval_start = '2026-11-10Z', interval_end = '2026-11-11Z' where state = 'planned'"
    )
    left = collect_all(area.settings, delete=False, keep_days=14).found
    day = "where interval_start = '2026-11-11T00:00:00Z'::timestamptz"
    assert len(left) == area.one(f"select count(*) from work_units {day}")


def test_without_delete_nothing_goes(area: Area, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in area.settings.environment().items():
        monkeypatch.setenv(name, value)
    before = area.storage.tree()
    told = CliRunner().invoke(app, ["gc", "--keep-days", "0"])
    assert told.exit_code == 0
    assert "nothing was deleted; --delete would free" in told.output
    assert "units (files of units that are loaded): " in told.output
    assert area.storage.tree() == before
    deleted = json.loads(CliRunner().invoke(app, ["gc", "--keep-days", "0", "--delete", "--format", "json"]).stdout)
    assert deleted["deleted"] is True
    assert deleted["kept"] == []
    assert sum(one["bytes"] for one in deleted["found"]) == sum(file.size for file in before) - sum(
        file.size for file in area.storage.tree()
    )
    assert "nothing to delete" in CliRunner().invoke(app, ["gc", "--keep-days", "0"]).output


def test_what_killed_writers_and_lost_units_left_goes_and_buckets_and_lists_stay(area: Area) -> None:
    storage = area.storage
    (area.staging / "units" / ".x.parquet.1.unpublished").write_bytes(b"half")
    storage.write_json("units/20261101-0-0-0/chunks/00000.parquet", {})
    area.execute("insert into fusions select 'other', 'm', null, '', '', '', '', '', 1, 1, '{}' from fusions limit 1")
    for name in ("running", "ended"):
        storage.write_json(f"{layout.pairs_folder(Replay(name=name, fusion_id=''))}/00000.parquet", {})
    area.execute(
        "insert into work_units (unit_id, fusion_id, rows_in, tokens_estimated, replay, replay_of)"
        " values ('r', 'other', 1, 1, 'running', 'other')"
    )
    others = {file.path for file in storage.tree() if file.path.startswith(("buckets/", "runs/"))}
    collection = collect_all(area.settings)
    assert kinds(collection) == {"units", "unknown units", "temporary files", "replays"}
    left = {file.path for file in storage.tree()}
    assert others <= left
    assert storage.folders("replays") == [Replay(name="running", fusion_id="").key]
    assert not any("unpublished" in path or "20261101" in path for path in left)


def test_what_a_planning_is_about_to_enter_is_kept_however_short_units_are_kept(area: Area) -> None:
    area.storage.write_json("units/20261101-0-0-0/pairs.parquet", {})
    area.storage.write_json(f"{layout.pairs_folder(Replay(name='planning', fusion_id=''))}/00000.parquet", {})
    settings = area.with_settings(keep_units_days=0)
    assert kinds(collect(settings, safe_age=timedelta(hours=1), delete=False)) == {"units"}
    assert kinds(collect(settings, safe_age=timedelta(0), delete=False)) == {"units", "unknown units", "replays"}


def test_a_unit_that_is_planned_again_before_its_old_files_go_is_kept(area: Area) -> None:
    [unit_id, other] = [area.planned, area.storage.folders("units")[-1]]
    row = "(unit_id, fusion_id, interval_start, interval_end, rows_in, tokens_estimated)"
    area.execute(f"create table planned as select * from work_units where unit_id = '{unit_id}'")
    area.execute(f"delete from work_units where unit_id = '{unit_id}'")
    fusion_id = area.one("select distinct fusion_id from work_units")
    replayed = f"{layout.pairs_folder(Replay(name='planned', fusion_id=''))}/00000.parquet"
    area.storage.write_json(replayed, {})
    with open_context(area.settings) as context:
        found = {one.where: one for one in garbage.find_garbage(context, NOW, NOW)}
        mine = [found[f"units/{unit_id}"], found[replayed.partition("/pairs")[0]]]
        with ledger.planning_lock(context.warehouse.engine, fusion_id) as session:
            session.lock("replay", fusion_id)
            for one in mine:
                with pytest.raises(NotReadyError, match=f"another process plans units of fusion {fusion_id}"):
                    one.delete()
        area.execute(f"insert into work_units {row} select {row.strip('()')} from planned")
        with pytest.raises(NotReadyError, match=f"unit {unit_id} is in the ledger now"):
            mine[0].delete()
        assert area.storage.exists(layout.unit_pairs(unit_id))
        assert area.storage.exists(replayed)
        area.execute(f"delete from work_units where unit_id = '{unit_id}'")
        for one in mine:
            one.delete()
    left = {file.path for file in area.storage.tree()}
    assert not {layout.unit_pairs(unit_id), replayed} & left
    assert layout.unit_pairs(other) in left


def test_a_unit_that_somebody_is_at_work_on_is_kept(area: Area) -> None:
    unit = area.unit(loaded_units(area)[0])
    with unit_tasks.at_work(area.settings, unit):
        collection = collect_all(area.settings)
    why = f"another process is fusing unit {unit.unit_id}; try again when it has ended"
    assert collection.kept == {f"units/{unit.unit_id}": why}
    assert unit.unit_id in area.storage.folders("units")


def test_with_the_wrong_warehouse_nothing_goes(area: Area, warehouse_url: str) -> None:
    wrong = area.with_settings(warehouse_url=warehouse_url)
    with pytest.raises(InputError, match=r"set CAPSFUSION_WAREHOUSE_URL to the warehouse"):
        collect_all(wrong)


def test_on_s3_too(area: Area, s3_bucket: str) -> None:
    remote = area.with_settings(staging=f"{s3_bucket}/collected")
    storage = Storage(remote.staging_uri)
    for file in area.storage.tree():
        with area.storage.filesystem.open_input_stream(file.path) as stream, storage.publish(file.path) as copy:
            copy.write(stream.read())
    collection = collect_all(remote)
    assert {one.where for one in collection.found} == {f"units/{unit_id}" for unit_id in loaded_units(area)}
    gone = {one.where for one in collection.found}
    left = {file.path for file in area.storage.tree() if "/".join(file.path.split("/")[:2]) not in gone}
    assert {file.path for file in storage.tree()} == left


HOLD = """
import sys, time
from pathlib import Path
from capsfusion_tasks.staging.scratch import temporary_folder
with temporary_folder(Path(sys.argv[1]), "split-", "a shard") as folder:
    (folder / "00000.arrow").write_bytes(b"x" * 100_000)
    print(folder, flush=True)
    time.sleep(600)
"""


def test_scratch_folders_go_when_their_process_is_gone(area: Area) -> None:
    scratch = area.settings.scratch_folder
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(scratch)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    folder = Path(owner.stdout.readline().strip())
    (scratch / "photos").mkdir()  # of another process
    assert "scratch" not in kinds(collect_all(area.settings))
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    collection = collect(area.settings, safe_age=timedelta(hours=1), delete=True)
    assert "scratch" not in kinds(collection)  # too young: a process may be about to lock it
    when = (datetime.now(UTC) - timedelta(hours=2)).timestamp()
    os.utime(folder, (when, when))
    [found] = collect(area.settings, safe_age=timedelta(hours=1), delete=True).found
    assert (found.kind, found.where) == ("scratch", str(folder))
    assert found.bytes >= 100_000
    assert [path.name for path in scratch.iterdir()] == ["photos"]
