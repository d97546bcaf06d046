"""Tests exports from a real PostgreSQL: the files' contents, and exports that are interrupted and resumed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.cli import app
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.fusion.identity import decide
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.settings import Settings, load_settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.tasks import export_parts
from capsfusion_tasks.tasks.export import Manifest, export_captions, export_filtered
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.export import ExportSession, export_session
from capsfusion_tasks.warehouse.export_selection import PUBLISHED_COLUMNS, Selection, Snapshot, named_columns
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.provenance import Origin
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.command import capsfusion
from tests.conftest import new_warehouse
from tests.opened import interval_tasks
from tests.tasks.writable_hub import WritableHub
from tests.warehouse.conftest import DAY, plan, rows

PAGE = Path(__file__).parents[2] / "docs" / "export.md"
NEXT_DAY = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
ROWS = 500  # fusion f1 has 400 accepted captions, fusion f2 has captions of 100 of the same pairs


def quiet(line: str) -> None:
    """Say nothing."""


RELEASES: dict[Side, str] = {"laion_2b": "/data/my-laion2B", "laion_coco": "hf://datasets/laion/laion-coco"}


def record_source(warehouse: Warehouse, source: str, shard_id: str, side: Side = "laion_2b") -> None:
    now = datetime.now(UTC)
    shard = Shard(shard_id=shard_id, side=side, source=source, path="0", etag="", size_bytes=1, arrived_at=now)
    with warehouse.engine.begin() as connection:
        ledger.record_shards(connection, [shard])


def fill(warehouse: Warehouse) -> None:
    for side, source in RELEASES.items():
        record_source(warehouse, source, f"{side} 0", side)
    plan(warehouse, ("u1", 300))
    plan(warehouse, ("u2", ROWS - 300), interval=NEXT_DAY)
    refused = {number: ["loop"] for number in range(0, ROWS, 5)}
    coco: dict[str, Any] = {"laion_coco_shard": "laion_coco 0", "license": None}
    load_unit(warehouse, "u1", rows(*range(300), rejected=refused, **coco))
    load_unit(warehouse, "u2", rows(*range(300, ROWS), rejected=refused, raw_recall=0.9, **coco))
    plan(warehouse, ("v1", 100), fusion_id="f2")
    both = coco | {"laion_2b_shard": "laion_2b 0", "license": "cc-by-2.0"}
    load_unit(warehouse, "v1", rows(*range(50, 150), capsfusion="newer", **both))


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[Warehouse]:
    """A filled warehouse that all tests share. They must not change it."""
    with new_warehouse(postgres) as url, open_warehouse(Settings(warehouse_url=url)) as warehouse:
        fill(warehouse)
        yield warehouse


@pytest.fixture
def own(warehouse_url: str) -> Iterator[Warehouse]:
    """A filled warehouse for one test only, which may change it."""
    with open_warehouse(Settings(warehouse_url=warehouse_url)) as warehouse:
        fill(warehouse)
        yield warehouse


@pytest.fixture(params=["folder", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where to export to. Each test runs twice: with a folder, and with a bucket of a local S3 server."""
    if request.param == "folder":
        return Storage(str(tmp_path / "captions"))
    return Storage(f"{request.getfixturevalue('s3_bucket')}/{tmp_path.name}")


@pytest.fixture(autouse=True)
def small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_parts, "ROW_GROUP_ROWS", 64)


def run(warehouse: Warehouse, storage: Storage, *, rows_per_file: int = 150, **options: Any) -> Manifest:
    overwrite = options.pop("overwrite", "never")
    selection = Selection(**options)
    return export_captions(warehouse, storage, selection, rows_per_file=rows_per_file, overwrite=overwrite, say=quiet)


def listing(storage: Storage) -> list[str]:
    return [*storage.files(""), *storage.files("data")]


def parts(*numbers: int) -> list[str]:
    return [f"data/part-{number:05d}.parquet" for number in numbers]


def read(storage: Storage) -> pa.Table:
    return pa.concat_tables([storage.read_table(name) for name in storage.files("data")])


def contents(storage: Storage) -> dict[str, bytes]:
    return {name: storage.filesystem.open_input_stream(name).read() for name in listing(storage)}


def test_what_is_read_back_is_what_the_query_gives(filled: Warehouse, target: Storage) -> None:
    manifest = run(filled, target, fusion_id="f1")
    query = "select image_url, laion_2b, laion_coco, capsfusion from fused_captions where fusion_id = 'f1'"
    expected = execute_sql(filled, f"{query} order by pair_id")
    assert read(target).equals(expected)
    assert expected.num_rows == manifest.rows == 400
    assert listing(target) == ["_manifest.json", *parts(0, 1, 2)]


def test_the_manifest_tells_what_is_in_the_files(filled: Warehouse, target: Storage) -> None:
    manifest = run(filled, target, columns=named_columns("pair_id,fusion_id"))
    assert Manifest(**target.read_json("_manifest.json")) == manifest
    assert manifest.rows_by_fusion == {"f1": 320, "f2": 100}
    assert manifest.snapshot.fusions["f2"]["num_beams"] == 3
    assert manifest.columns == [(name, "string") for name in (*PUBLISHED_COLUMNS, "pair_id", "fusion_id")]
    for part in manifest.files:
        data = target.filesystem.open_input_stream(part.file).read()
        assert (part.bytes, part.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        ids = pq.read_table(pa.BufferReader(data))["pair_id"].to_pylist()
        assert (part.rows, part.first_pair_id, part.last_pair_id) == (len(ids), ids[0], ids[-1])
        groups = pq.ParquetFile(pa.BufferReader(data)).metadata
        assert {groups.row_group(number).num_rows for number in range(groups.num_row_groups - 1)} == {64}


@pytest.mark.parametrize(
    ("options", "counts"),
    [({}, [320, 100]), ({"fusion_id": "f1"}, [400]), ({"where": "capsfusion = 'newer'", "limit": 7}, [0, 7])],
    ids=["all", "fusion", "limit"],
)
def test_the_manifest_counts_releases_and_licences(
    filled: Warehouse, tmp_path: Path, options: dict[str, Any], counts: list[int]
) -> None:
    manifest = run(filled, Storage(str(tmp_path)), **options)
    hub = RELEASES["laion_coco"]
    origins = [
        Origin("unknown", hub, None, counts[0]),
        *(Origin("my-laion2B", hub, "cc-by-2.0", n) for n in counts[1:]),
    ]
    assert manifest.origins == [origin for origin in origins if origin.captions]
    assert Manifest(**json.loads((tmp_path / "_manifest.json").read_text())) == manifest


def test_of_each_pair_the_newest_caption_is_taken(filled: Warehouse, target: Storage) -> None:
    run(filled, target)
    query = "select distinct on (pair_id) capsfusion from fused_captions order by pair_id, loaded_at desc"
    table = read(target)
    assert table["capsfusion"].to_pylist() == execute_sql(filled, query)["capsfusion"].to_pylist()
    assert table["capsfusion"].to_pylist().count("newer") == 100


@pytest.mark.parametrize(
    ("options", "condition"),
    [
        ({"where": "raw_recall > 0.8 -- good ones"}, "raw_recall > 0.8"),
        ({"where": "laion_2b like '%7%' or laion_2b ~ '1{2}'"}, "laion_2b like '%7%' or laion_2b ~ '1{2}'"),
        ({"where": "laion_2b_shard in (select shard_id from shards where source like '%B')"}, "false"),
        ({"where": "laion_coco_shard in (select shard_id from shards where source like 'hf:%')"}, "true"),
        ({"where": "fusion_id in (select fusion_id from fusions where model = 'demo')"}, "true"),
        ({"where": "unit_id in (select unit_id from work_units where rows_in > 250)"}, "unit_id = 'u1'"),
        ({"where": "age(loaded_at, loaded_at) < '1 day' and loaded_at::date > '2020-01-01'"}, "true"),
        ({"where": "capsfusion <> 'See you today' and laion_2b not like '%now()%'"}, "true"),
        ({"interval": NEXT_DAY}, "unit_id = 'u2'"),
        ({"loaded_before": datetime(2020, 1, 1, tzinfo=UTC)}, "false"),
        ({"loaded_from": datetime(2020, 1, 1, tzinfo=UTC)}, "true"),
        ({"limit": 190}, "pair_id in (select pair_id from fused_captions where fusion_id = 'f1' order by 1 limit 190)"),
    ],
    ids=[
        "where",
        "braces",
        "no source",
        "source",
        "model",
        "unit",
        "time",
        "words",
        "interval",
        "before",
        "from",
        "limit",
    ],
)
def test_filters_are_those_of_the_query(
    filled: Warehouse, tmp_path: Path, options: dict[str, Any], condition: str
) -> None:
    storage = Storage(str(tmp_path))
    manifest = run(filled, storage, fusion_id="f1", **options)
    query = f"select capsfusion from fused_captions where fusion_id = 'f1' and ({condition}) order by pair_id"
    expected = execute_sql(filled, query)["capsfusion"].to_pylist()
    assert manifest.rows == len(expected)
    assert (read(storage)["capsfusion"].to_pylist() if expected else []) == expected


def test_a_condition_is_asked_of_the_newest_caption(filled: Warehouse, tmp_path: Path) -> None:
    assert run(filled, Storage(str(tmp_path)), where="capsfusion <> 'newer'").rows == 320


def test_every_column_can_be_had_and_other_readers_read_them(filled: Warehouse, tmp_path: Path) -> None:
    manifest = run(filled, Storage(str(tmp_path)), columns=named_columns("all"))
    assert [name for name, _ in manifest.columns][:4] == list(PUBLISHED_COLUMNS)
    assert {("pair_id", "string"), ("similarity", "double"), ("loaded_at", "timestamp[us, tz=UTC]")} <= {
        *manifest.columns
    }
    origin = ["laion_2b_source", "laion_coco_source", "license", "capsfusion_model"]
    hub, counted = RELEASES["laion_coco"], read(Storage(str(tmp_path))).group_by(origin).aggregate([([], "count_all")])
    assert {tuple(row.values()) for row in counted.to_pylist()} == {
        (None, hub, None, "demo", 320),  # None, because the ledger has no shard with this id
        ("my-laion2B", hub, "cc-by-2.0", "demo", 100),
    }
    assert pyarrow.dataset.dataset(tmp_path).count_rows() == 420  # beside the manifest
    # The parts' folder has no other files, because Polars reads every file of a folder.
    assert sorted(os.listdir(tmp_path / "data")) == [Path(name).name for name in parts(0, 1, 2)]
    assert duckdb.sql(f"select count(distinct pair_id) from '{tmp_path}/data/*.parquet'").fetchall() == [(420,)]
    for file in sorted((tmp_path / "data").iterdir()):  # img2dataset reads files in this way
        assert pq.read_table(file, columns=["image_url", "capsfusion"]).num_rows


def test_an_export_has_names_of_releases_and_no_address_of_a_source(own: Warehouse, tmp_path: Path) -> None:
    columns = named_columns("laion_2b_source,laion_coco_source,license")
    break_off(own, Storage(str(tmp_path / "before")), after=2, columns=columns)
    record_source(own, "s3://private-bucket/new/my-laion2B", "other")
    plan(own, ("w1", 5))
    of_other: dict[str, Any] = {"laion_2b_shard": "other", "laion_coco_shard": "laion_coco 0", "license": "by-nc"}
    load_unit(own, "w1", rows(*range(ROWS, ROWS + 5), **of_other))
    hub = RELEASES["laion_coco"]
    for folder, expected in (
        ("before", {(None, hub, None, 320), ("my-laion2B", hub, "cc-by-2.0", 100)}),
        (
            "after",
            {
                (None, hub, None, 320),
                ("data/my-laion2B", hub, "cc-by-2.0", 100),
                ("new/my-laion2B", hub, "by-nc", 5),
            },
        ),
    ):
        manifest = run(own, Storage(str(tmp_path / folder)), rows_per_file=100, columns=columns)
        table = read(Storage(str(tmp_path / folder))).group_by(columns[-3:]).aggregate([([], "count_all")])
        assert {tuple(row.values()) for row in table.to_pylist()} == expected
        counted = {(each.laion_2b, each.laion_coco, each.license, each.captions) for each in manifest.origins}
        assert counted == {(raw or "unknown", *others) for raw, *others in expected}
        published = (tmp_path / folder / "_manifest.json").read_text()
        assert "private-bucket" not in published
        assert "/data/" not in published


def test_addresses_and_names_of_releases_are_not_mixed_in_an_export(filled: Warehouse, tmp_path: Path) -> None:
    storage, columns = Storage(str(tmp_path)), named_columns("laion_2b_source")
    break_off(filled, storage, after=1, columns=columns)
    begun = storage.read_json("_export.json")
    del begun["snapshot"]["releases"]  # earlier versions did not record names of releases
    storage.write_json("_export.json", begun)
    with pytest.raises(InputError, match=r"earlier version .* addresses of sources instead of names .* --overwrite"):
        run(filled, storage, rows_per_file=100, columns=columns)


def break_off(warehouse: Warehouse, storage: Storage, after: int, **options: Any) -> None:
    """Run an export that is interrupted after ``after`` files."""

    class BrokenOffError(Exception):
        pass

    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if len(said) == after:
            raise BrokenOffError

    with pytest.raises(BrokenOffError):
        export_captions(warehouse, storage, Selection(**options), rows_per_file=100, say=say)


@pytest.mark.parametrize("options", [{}, {"limit": 350}, {"fusion_id": "f1"}], ids=["newest", "limit", "fusion"])
def test_interrupted_and_repeated_gives_the_same_files(
    filled: Warehouse, target: Storage, tmp_path: Path, options: dict[str, Any]
) -> None:
    unbroken = Storage(str(tmp_path / "unbroken"))
    run(filled, unbroken, rows_per_file=100, **options)
    break_off(filled, target, after=2, **options)
    assert listing(target) == ["_export.json", *parts(0, 1)]
    written: list[str] = []
    selection = Selection(**options)
    export_captions(
        filled, target, selection, rows_per_file=100, say=lambda line: written.append(line.partition(":")[0])
    )
    assert written[0] == parts(2)[0]
    found, expected = contents(target), contents(unbroken)
    for manifest in (found, expected):
        manifest["_manifest.json"] = json.loads(manifest["_manifest.json"]) | {"snapshot": None}
    assert found == expected


def test_an_export_of_an_earlier_version_continues_beside_its_manifest(filled: Warehouse, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    break_off(filled, storage, after=2)
    for name in parts(0, 1):
        (tmp_path / name).rename(tmp_path / Path(name).name)
    begun = json.loads((tmp_path / "_export.json").read_text().replace("data/", ""))
    del begun["folder"]
    storage.write_json("_export.json", begun)
    assert run(filled, storage, rows_per_file=100).rows == 420
    assert storage.files("") == ["_manifest.json", *(f"part-0000{number}.parquet" for number in range(5))]


def test_what_is_loaded_meanwhile_is_not_mixed_in(own: Warehouse, tmp_path: Path) -> None:
    storage, unbroken = Storage(str(tmp_path / "broken")), Storage(str(tmp_path / "unbroken"))
    run(own, unbroken, rows_per_file=100)
    break_off(own, storage, after=1)
    plan(own, ("w1", 100), fusion_id="f2")
    load_unit(own, "w1", rows(*range(200, 300), capsfusion="newest"))
    assert run(own, storage, rows_per_file=100).rows == 420
    assert read(storage).equals(read(unbroken))
    assert run(own, storage, rows_per_file=100, overwrite="outdated").rows == 440
    assert read(storage)["capsfusion"].to_pylist().count("newest") == 100


FILTERS = [CaptionFilter(day=DAY.start.date()), CaptionFilter(dag_run_id="run"), CaptionFilter(shard="0")]


# Holds a load just before its commit, while a test has the lock 42.
HELD_AT_COMMIT = """
create function capsfusion.hold() returns trigger language plpgsql as
$$ begin perform pg_advisory_xact_lock(42); return null; end $$;
create constraint trigger hold after update on capsfusion.work_units deferrable initially deferred
for each row execute function capsfusion.hold()
"""


def test_a_load_that_runs_at_the_end_of_an_export_is_in_it_or_in_the_next(own: Warehouse, tmp_path: Path) -> None:
    def waiting(*others: int) -> set[int]:
        query = "select pid from pg_locks where locktype = 'advisory' and not granted"
        with own.engine.connect() as connection:
            return set(connection.scalars(text(query))) - {*others}

    before, after = Storage(str(tmp_path / "before")), Storage(str(tmp_path / "after"))
    plan(own, ("u3", 3), ("u4", 3))
    with ThreadPoolExecutor(3) as threads, own.engine.connect() as holder:
        holder.exec_driver_sql(HELD_AT_COMMIT)
        holder.commit()
        holder.execute(text("select pg_advisory_xact_lock(42)"))
        first = threads.submit(load_unit, own, "u3", rows(*range(ROWS, ROWS + 3)))
        [committing] = until(waiting)
        second = threads.submit(load_unit, own, "u4", rows(*range(ROWS + 3, ROWS + 6)))
        [merging] = until(lambda: waiting(committing))
        cut = holder.execute(text("select clock_timestamp()")).scalar_one()
        export = threads.submit(run, own, before, fusion_id="f1", loaded_before=cut)
        until(lambda: export.done() or waiting(committing, merging))
        holder.rollback()
    assert [done.result().already_loaded for done in (first, second)] == [False, False]
    assert export.result().rows == 400 + 3
    assert run(own, after, fusion_id="f1", loaded_from=cut).rows == 3


def until(find: Callable[[], Any]) -> Any:
    """The first result of ``find`` that is true."""
    for _ in range(600):
        if found := find():
            return found
        time.sleep(0.1)
    raise AssertionError("nothing happened for a minute")


def test_an_export_to_a_time_in_the_future_is_refused(filled: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match=r"2999-01-01 00:00:00 UTC is in the future.*Give an end that has passed"):
        run(filled, Storage(str(tmp_path)), loaded_before=datetime(2999, 1, 1, tzinfo=UTC))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wanted", FILTERS, ids=["day", "run", "shard"])
def test_a_filtered_export_is_gone_on_with_when_the_ledger_says_more(
    own: Warehouse, tmp_path: Path, wanted: CaptionFilter
) -> None:
    unbroken, storage, earlier = (Storage(str(tmp_path / name)) for name in ("unbroken", "broken", "earlier"))
    run(own, unbroken, rows_per_file=100, filter=wanted)
    for each in (storage, earlier):
        break_off(own, each, after=1, filter=wanted)
    begun = earlier.read_json("_export.json")
    del begun["selection"]["filter"]  # earlier versions recorded only the condition
    earlier.write_json("_export.json", begun)
    plan(own, ("w1", 10), dag_run_id="a later run")
    load_unit(own, "w1", rows(*range(ROWS, ROWS + 10), laion_coco_shard="laion_coco 1"))
    record_source(own, "/data/more", "laion_coco 1", "laion_coco")
    for _ in range(2):  # first to complete the export, then with nothing left to do
        assert run(own, storage, rows_per_file=100, filter=wanted).rows == read(unbroken).num_rows
    assert read(storage).equals(read(unbroken))
    with pytest.raises(InputError, match=r"filter was \{'\w+': '[^']+'\}, is now \{'words': 'x'\}\): give another"):
        run(own, storage, rows_per_file=100, filter=CaptionFilter(words="x"))
    with pytest.raises(InputError, match=r"(?s)other options \(where was [^;]*, is now [^;]*\): give"):
        run(own, earlier, rows_per_file=100, filter=wanted)


def test_a_filtered_export_of_an_earlier_version_is_gone_on_with(filled: Warehouse, tmp_path: Path) -> None:
    storage, wanted = Storage(str(tmp_path)), CaptionFilter(day=DAY.start.date())
    break_off(filled, storage, after=1, filter=wanted)
    begun = storage.read_json("_export.json")
    del begun["selection"]["filter"]
    storage.write_json("_export.json", begun)
    assert run(filled, storage, rows_per_file=100, filter=wanted).rows == 260


def test_an_interrupted_run_of_the_dag_that_exports_is_repeated(own: Warehouse, tmp_path: Path) -> None:
    class BrokenOffError(Exception):
        pass

    def break_off(_: str) -> None:
        raise BrokenOffError

    wanted, folder = CaptionFilter(day=DAY.start.date()), str(tmp_path / "kept")
    with pytest.raises(BrokenOffError):
        export_filtered(own, wanted, folder, tmp_path, say=break_off)
    plan(own, ("w1", 10))
    load_unit(own, "w1", rows(*range(ROWS, ROWS + 10)))
    assert export_filtered(own, wanted, folder, tmp_path, say=quiet)["rows"] == 260
    assert export_filtered(own, wanted, str(tmp_path / "new"), tmp_path, say=quiet)["rows"] == 270


def test_a_replaced_caption_is_counted_once_in_the_outcome(own: Warehouse) -> None:
    plan(own, ("u3", 10))
    load_unit(own, "u3", rows(*range(10), rejected={1: ["short"]}), replace=True)  # 0 and 5 were rejected before
    with export_session(own, "here") as session:
        outcome = session.outcome(session.freeze(Selection(fusion_id="f1")))
    assert (outcome.accepted, outcome.rejected) == (401, 99)
    assert outcome.reasons == {"loop": 98, "short": 1}


def test_an_export_goes_on_when_rejected_captions_were_rejected_again(own: Warehouse, tmp_path: Path) -> None:
    def freeze() -> Snapshot:
        with export_session(own, "here") as session:
            return session.freeze(Selection(interval=DAY, fusion_id="f1"))

    storage, before = Storage(str(tmp_path)), freeze()
    by_earlier_version = before.model_copy(update={"superseded_accepted": None})
    assert freeze().is_same_as(by_earlier_version)
    break_off(own, storage, after=1, interval=DAY, fusion_id="f1")
    plan(own, ("u3", 2), interval=NEXT_DAY)
    load_unit(own, "u3", rows(0, 5, rejected={0: ["short"], 5: ["short"]}), replace=True)
    assert freeze().is_same_as(before)
    assert not freeze().is_same_as(by_earlier_version)
    assert run(own, storage, rows_per_file=100, interval=DAY, fusion_id="f1").rows == 240


def test_an_export_whose_rows_were_replaced_meanwhile_is_not_gone_on_with(own: Warehouse, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    break_off(own, storage, after=1, fusion_id="f1")
    plan(own, ("u3", 10))
    load_unit(own, "u3", rows(*range(10), capsfusion="replaced"), replace=True)
    with pytest.raises(InputError, match=r"were replaced in the warehouse after the export began.*--overwrite"):
        run(own, storage, rows_per_file=100, fusion_id="f1")
    assert run(own, storage, rows_per_file=100, fusion_id="f1", overwrite="always").rows == 402


def test_a_finished_export_is_left_as_it_is_and_a_lost_file_is_written_again(
    filled: Warehouse, target: Storage
) -> None:
    first = run(filled, target)
    before = contents(target)
    times = [target.filesystem.get_file_info(name).mtime for name in listing(target)]
    assert run(filled, target) == first
    assert run(filled, target, overwrite="outdated") == first
    assert [target.filesystem.get_file_info(name).mtime for name in listing(target)] == times
    # Restore the state that a kill just before the end of the export would leave.
    target.write_json("_export.json", target.read_json("_manifest.json"))
    run(filled, target)
    assert contents(target) == before
    target.delete(*parts(1))
    run(filled, target)
    assert contents(target) == before


def test_a_folder_with_something_else_in_it_is_refused(filled: Warehouse, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path / "a"))
    run(filled, storage, fusion_id="f1")
    before = contents(storage)
    with pytest.raises(InputError, match=r"fusion_id was f1, is now f2; where was none, is now true\): "):
        run(filled, storage, fusion_id="f2", where="true")
    assert contents(storage) == before
    run(filled, storage, fusion_id="f2", rows_per_file=1000, overwrite="always")
    assert listing(storage) == ["_manifest.json", *parts(0)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    for overwrite in ("never", "always"):
        with pytest.raises(InputError, match=r"belong to no export \(thesis.tex\)"):
            run(filled, Storage(str(tmp_path / "b")), overwrite=overwrite)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("README.txt", "README.txt: File exists; give a folder that this user may write to"),
        ("README.txt/captions", "README.txt/captions: Not a directory; give a folder"),
        ("https://huggingface.co/datasets/owner/name", "or hf://datasets/owner/name (for the hub)"),
        (
            "captions --start 2026-12-01 --end 2026-11-01",
            "ends 2026-11-01 00:00:00+00:00; give an end after the start",
        ),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("README.txt").touch()
    url = filled.url.render_as_string(hide_password=False)
    done = capsfusion("export", *command.split(), CAPSFUSION_WAREHOUSE_URL=url, CAPSFUSION_HOME=str(tmp_path))
    assert (done.returncode, said in done.messages.splitlines()[-1]) == (2, True), done.messages
    assert os.listdir() == ["README.txt"]


def test_nothing_to_export_is_an_export_without_files(filled: Warehouse, tmp_path: Path) -> None:
    assert run(filled, Storage(str(tmp_path)), where="false").rows == 0
    assert os.listdir(tmp_path) == ["_manifest.json"]


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("true) or (true", r'syntax error at or near "\)"'),
        ("true] || array[true", r'syntax error at or near "\]"'),
        ("true; delete from shards", 'syntax error at or near ";"'),
        ("true /*", "unterminated"),
        ("raw_recall > 0.8 and", "syntax error at the end of the condition"),
        ("nope = 1", 'column "nope" does not exist'),
        (
            "laion_2b_source like '%raw'",
            r"only the columns of fused_captions: instead .* write laion_2b_shard in \(select",
        ),
        ("captions.laion_coco_source = 'x'", r"only .* write laion_coco_shard in \(select shard_id from shards"),
        ("capsfusion_model = 'demo'", r"only .* write fusion_id in \(select fusion_id from fusions where model"),
        ("novelty", "must be type boolean"),
        ("count(*) > 1", "aggregate functions are not allowed"),
        ("loaded_at > now() - interval '1 day'", "has now, whose value changes with each attempt"),
        ("Random() < 0.1", "has random, whose"),
        ('pg_catalog."now"() > loaded_at', "has now, whose"),
        ("random_normal() > 0", "has random_normal, whose"),
        ("txid_current() > 0", "has txid_current, whose"),
        ("pg_sleep(0)::text = ''", "has pg_sleep, whose"),
        ("loaded_at::date = Current_Date", "has current_date, whose"),
        ("age(loaded_at) < interval '1 day'", "has current_date, whose"),
        ("loaded_at > timestamptz 'now' - interval '4 seconds'", "has 'now', whose"),
        ("loaded_at > 'Today 10:30 UTC'", "has 'Today 10:30 UTC', whose"),
        (
            "pair_id in (select pair_id from judgements)",
            "queries the table judgements, .* query only fusions, shards, work",
        ),
        ("unit_id in (select unit_id from lake_units)", "queries the table lake_units"),
        ("laion_2b_shard in (select shard_id from shards where Seen_At > '2026-11-01')", r"queries shards\.seen_at"),
        ('unit_id in (select unit_id from work_units w where w."superseded" = 0)', r"queries work_units\.superseded"),
        (
            "exists (select from captions newer where newer.pair_id = captions.pair_id)",
            "queries the table fused_captions",
        ),
    ],
)
def test_a_condition_that_is_none_is_refused(filled: Warehouse, tmp_path: Path, where: str, said: str) -> None:
    with pytest.raises(InputError, match=f"--where .*{said}"):
        run(filled, Storage(str(tmp_path)), where=where)
    assert os.listdir(tmp_path) == []


def test_a_condition_cannot_change_anything(filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing = "setval('capsfusion.counter', 1) > 0"
    with filled.engine.begin() as connection:
        connection.execute(text("create sequence if not exists capsfusion.counter"))
    with pytest.raises(InputError, match="--where has setval, whose value changes"):
        run(filled, Storage(str(tmp_path)), where=writing)
    monkeypatch.setattr(ExportSession, "check_where", lambda *_: None)
    with pytest.raises((InputError, NotReadyError), match="read-only"):
        run(filled, Storage(str(tmp_path)), where=writing)


def test_unknown_columns_and_fusions_are_told_from_known_ones(filled: Warehouse, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="captions have no column captoin; they have pair_id, fusion_id, image_url"):
        Selection(columns=named_columns("captoin"))
    with pytest.raises(InputError, match=r"has no fusion f9; it has f1 \(demo\), f2 \(demo\)"):
        run(filled, Storage(str(tmp_path)), fusion_id="f9")


def test_two_exports_to_one_folder_do_not_run_at_the_same_time(filled: Warehouse, tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    with (
        export_session(filled, storage.path("")),
        pytest.raises(NotReadyError, match=r"another export to .* is running"),
    ):
        run(filled, storage)
    run(filled, storage)


@pytest.mark.parametrize(
    ("where", "error", "said"),
    [
        ("pg_terminate_backend(pg_backend_pid())", NotReadyError, ", failed: .*try again"),
        ("1 / (raw_recall - 0.5) > 0", InputError, "refuses the request: .*division by zero"),
    ],
    ids=["server gone", "bad value"],
)
def test_what_ends_the_query_in_the_middle_is_said(
    filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, error: type[Exception], said: str
) -> None:
    monkeypatch.setattr(ExportSession, "check_where", lambda *_: None)
    with pytest.raises(error, match=said):
        run(filled, Storage(str(tmp_path)), where=where)


def test_a_run_exports_its_interval_and_anew_when_there_is_more(
    own: Warehouse, target: Storage, tiny_model: Path
) -> None:
    settings = load_settings(warehouse_url=own.url.render_as_string(hide_password=False), model=str(tiny_model))
    fusion_id = decide(settings).fusion_id
    nothing = interval_tasks.export(settings, NEXT_DAY, target.root)  # no unit of this fusion is planned yet
    assert (nothing["rows"], nothing["files"]) == (0, 0)
    for unit_id, numbers in (("m1", range(10)), ("m2", range(10, 25))):
        plan(own, (unit_id, len(numbers)), fusion_id=fusion_id)
        load_unit(own, unit_id, rows(*numbers, capsfusion="ours"))
        done = interval_tasks.export(settings, DAY, target.root + "/")
        assert done == {"target": target.path(f"{fusion_id}/{DAY.key}"), "rows": numbers.stop, "files": 1}
        assert interval_tasks.export(settings, DAY, target.root) == done
    table = target.read_table(f"{fusion_id}/{DAY.key}/data/part-00000.parquet")
    assert table["capsfusion"].to_pylist() == ["ours"] * 25
    assert target.folders(fusion_id) == [DAY.key, NEXT_DAY.key]


def test_the_commands_of_the_page_are_good(filled: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", filled.url.render_as_string(hide_password=False))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    hub = WritableHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    commands = re.findall(r"^ {4,6}capsfusion (export .*)$", PAGE.read_text(), flags=re.MULTILINE)
    with hub.running():
        for command in commands:
            done = CliRunner().invoke(app, shlex.split(command))
            assert done.exit_code == 0, (command, done.exception)
    assert hub.files_of("owner/name").keys() >= {"README.md", *parts(0)}
    folders = sorted(manifest.parent.name for manifest in tmp_path.glob("*/_manifest.json"))
    assert folders == ["captions", "everything", "january", "kept", "one-model", "one-release", "small"]


KILLED = """
import os, signal, sys
from capsfusion_tasks.tasks import export, export_parts
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.export_selection import Selection

publish, export_parts.ROW_GROUP_ROWS = Storage.publish, 64

class Dying(Storage):
    def publish(self, path):
        if path == "data/part-00002.parquet":  # in the middle of this file
            writer = export_parts.pq.ParquetWriter.write_table
            def write(*arguments, **options):
                writer(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            export_parts.pq.ParquetWriter.write_table = write
        return publish(self, path)

with open_warehouse(Settings(warehouse_url=sys.argv[1])) as warehouse:
    export.export_captions(warehouse, Dying(sys.argv[2]), Selection(), rows_per_file=100)
"""


def test_killed_in_the_middle_of_a_file_and_repeated_gives_the_same_files(
    filled: Warehouse, target: Storage, tmp_path: Path
) -> None:
    url = filled.url.render_as_string(hide_password=False)
    killed = subprocess.run([sys.executable, "-c", KILLED, url, target.root], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert listing(target) == ["_export.json", *parts(0, 1)]
    run(filled, target, rows_per_file=100)
    assert not list((tmp_path / "captions").rglob(".*")), "the half file of the killed one is gone"
    unbroken = Storage(str(tmp_path / "unbroken"))
    run(filled, unbroken, rows_per_file=100)
    found, expected = contents(target), contents(unbroken)
    assert found.keys() == expected.keys()
    assert all(found[name] == expected[name] for name in found if name != "_manifest.json")
