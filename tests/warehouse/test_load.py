"""A load is atomic. A unit is loaded only once, also if an earlier load failed."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import Connection, select, text

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse import ledger
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.consistency import violations
from capsfusion_tasks.warehouse.ledger_tables import work_units
from capsfusion_tasks.warehouse.load import LoadResult, load_unit
from tests.warehouse.conftest import in_threads, merge_held, pair_id, plan, rows


def everything(connection: Connection) -> list[object]:
    """All rows that a load can change, in order of their keys, without the time of the load."""
    found: list[object] = []
    for table, key in ((fused_captions, "pair_id"), (rejected_captions, "pair_id"), (work_units, "unit_id")):
        for row in connection.execute(select(table).order_by(table.c[key])).mappings():
            found.append({name: value for name, value in row.items() if name != "loaded_at"})
    return found


def consistent(connection: Connection) -> bool:
    return violations(connection) == []


def test_rows_and_mark_are_there_together(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 4))
    result = load_unit(warehouse, "u1", rows(1, 2, 3, 4, rejected={2: ["loop", "too short"], 4: ["empty"]}), "run 7")
    assert result == LoadResult(accepted=2, rejected=2, already_loaded=False)
    caption = connection.execute(select(fused_captions).order_by(fused_captions.c.laion_hash)).mappings().first()
    assert caption is not None
    assert caption["pair_id"] == UUID(bytes=pair_id(1))
    assert (caption["image_url"], caption["capsfusion"], caption["laion_coco_row"]) == (
        "image_url 1",
        "capsfusion 1",
        1,
    )
    assert (caption["raw_recall"], caption["fusion_id"], caption["dag_run_id"]) == (0.5, "f1", "run 7")
    assert list(connection.scalars(select(rejected_captions.c.reasons).order_by(rejected_captions.c.laion_hash))) == [
        ["loop", "too short"],
        ["empty"],
    ]
    unit = connection.execute(select(work_units)).mappings().one()
    assert (unit["state"], unit["accepted"], unit["rejected"]) == ("loaded", 2, 2)
    assert unit["loaded_at"] is not None
    assert consistent(connection)


def test_loading_again_changes_nothing(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 2))
    load_unit(warehouse, "u1", rows(1, 2, rejected={2: ["loop"]}))
    before = everything(connection)
    for replace in (False, True):
        again = load_unit(warehouse, "u1", rows(1, 2, capsfusion="another"), replace=replace)
        assert again == LoadResult(accepted=1, rejected=1, already_loaded=True)
    assert everything(connection) == before


def test_no_table_is_read_whole_for_each_row(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, *((f"u{number}", 500) for number in range(60)))
    # With these statistics, PostgreSQL's planner knows that the table is small, and prefers to scan it.
    connection.execute(text("analyze capsfusion.work_units"))

    def scans() -> tuple[int, int]:
        found = connection.execute(
            text(
                "select sum(seq_scan), sum(idx_scan) from pg_stat_user_tables where schemaname = 'capsfusion' and"
                " relname in ('work_units', 'fusions', 'fused_captions', 'rejected_captions')"
            )
        ).one()
        return int(found[0]), int(found[1])

    whole, by_index = scans()
    load_unit(warehouse, "u0", rows(*range(500)))
    deadline = time.monotonic() + 30
    while scans()[1] < by_index + 500 and time.monotonic() < deadline:
        time.sleep(0.05)  # until the load's connection has reported its statistics
    assert scans()[1] >= by_index + 500
    assert scans()[0] == whole


@pytest.mark.parametrize("numbers", [[], [1]], ids=["no row", "one row"])
def test_a_reader_will_do_and_a_unit_can_be_small(warehouse: Warehouse, numbers: list[int]) -> None:
    plan(warehouse, ("u1", len(numbers)))
    assert load_unit(warehouse, "u1", rows(*numbers).to_reader()) == LoadResult(len(numbers), 0, already_loaded=False)


def test_nul_characters_become_replacement_characters(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 2))
    load_unit(warehouse, "u1", rows(1, 2, laion_2b="a\x00b 🦊 \u202eעברית", rejected={2: ["bad \x00"]}).slice(0))
    assert connection.scalar(select(fused_captions.c.laion_2b)) == "a\ufffdb 🦊 \u202eעברית"
    assert connection.scalar(select(rejected_captions.c.reasons)) == ["bad \ufffd"]


@pytest.mark.parametrize(
    ("unit_id", "table", "said"),
    [
        ("u9", rows(1, 2), "no work unit u9"),
        ("u1", rows(1), "planned with 2 rows, but 1 are validated"),
        ("u1", rows(1, 1), "2 rows and 1 different pairs"),
        ("u1", rows(1, 2).drop_columns(["novelty"]), "have the schema"),
        ("u1", rows(1, 2, capsfusion=None), "rows without capsfusion"),
        ("u1", rows(1, 10), r"pair .* is in the warehouse already, from unit u0"),
        ("u1", rows(1, 11), r"pair .* is in the warehouse already, from unit u0"),
    ],
    ids=["unknown unit", "rows missing", "pair twice", "column missing", "null", "pair accepted", "pair rejected"],
)
def test_what_does_not_fit_changes_nothing(
    warehouse: Warehouse, connection: Connection, unit_id: str, table: pa.Table, said: str
) -> None:
    plan(warehouse, ("u0", 2), ("u1", 2))
    load_unit(warehouse, "u0", rows(10, 11, rejected={11: ["loop"]}))
    before = everything(connection)
    with pytest.raises(InputError, match=said):
        load_unit(warehouse, unit_id, table)
    assert everything(connection) == before


def test_the_same_pair_under_another_fusion_is_another_row(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 2))
    plan(warehouse, ("v1", 2), fusion_id="f2")
    load_unit(warehouse, "u1", rows(1, 2))
    load_unit(warehouse, "v1", rows(1, 2, rejected={1: ["loop"]}))
    assert connection.scalar(text("select count(*) from capsfusion.fused_captions")) == 3
    assert consistent(connection)


def test_replace_moves_pairs_and_counts_them_on_the_older_units(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 3), ("u2", 2), ("u3", 4))
    load_unit(warehouse, "u1", rows(1, 2, 3, rejected={3: ["loop"]}))
    load_unit(warehouse, "u2", rows(4, 5))
    result = load_unit(warehouse, "u3", rows(2, 3, 4, 6, capsfusion="newer", rejected={2: ["short"]}), replace=True)
    assert result == LoadResult(accepted=3, rejected=1, already_loaded=False)
    units = work_units.c
    counts = select(units.superseded, units.superseded_accepted, units.accepted, units.rejected)
    assert list(connection.execute(counts.order_by(units.unit_id))) == [(2, 1, 2, 1), (1, 1, 2, 0), (0, 0, 3, 1)]
    hashes = select(fused_captions.c.laion_hash, fused_captions.c.unit_id).order_by(fused_captions.c.laion_hash)
    assert list(connection.execute(hashes)) == [(1, "u1"), (3, "u3"), (4, "u3"), (5, "u2"), (6, "u3")]
    assert list(connection.scalars(select(rejected_captions.c.capsfusion))) == ["newer"]
    assert consistent(connection)


def test_of_two_loads_of_a_unit_one_works(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 500))
    table = rows(*range(500), rejected={7: ["loop"]})
    results = in_threads(*[lambda: load_unit(warehouse, "u1", table)] * 3)
    assert sorted(result.already_loaded for result in results if isinstance(result, LoadResult)) == [False, True, True]
    assert {(r.accepted, r.rejected) for r in results if isinstance(r, LoadResult)} == {(499, 1)}
    assert consistent(connection)


def test_two_units_with_a_pair_in_common_cannot_both_be_loaded(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 300), ("u2", 300))
    accepted, rejected = rows(*range(300)), rows(*range(299, 599), rejected={299: ["loop"]})
    results = in_threads(lambda: load_unit(warehouse, "u1", accepted), lambda: load_unit(warehouse, "u2", rejected))
    assert sorted(type(result).__name__ for result in results) == ["InputError", "LoadResult"]
    assert consistent(connection)


def waiting_backend(connection: Connection) -> int:
    query = text(
        "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        " and query like '%capsfusion.load%'"
    )
    for _ in range(300):
        pid = connection.scalar(query)
        if pid is not None:
            return int(pid)
        time.sleep(0.1)
    raise AssertionError("no load waits for its merge")


def test_a_lost_connection_in_the_middle_costs_a_retry(warehouse: Warehouse, connection: Connection) -> None:
    plan(warehouse, ("u1", 100))
    table = rows(*range(100), rejected={7: ["loop"]})
    before = everything(connection)
    with merge_held(warehouse):
        results: list[object] = []
        load = threading.Thread(target=lambda: results.extend(in_threads(lambda: load_unit(warehouse, "u1", table))))
        load.start()
        connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": waiting_backend(connection)})
        load.join(60)
    assert [type(result) for result in results] == [NotReadyError]
    assert "try again" in str(results[0])
    assert everything(connection) == before
    assert load_unit(warehouse, "u1", table) == LoadResult(99, 1, already_loaded=False)
    assert consistent(connection)


def test_a_killed_process_leaves_nothing_behind(warehouse: Warehouse, connection: Connection, tmp_path: Path) -> None:
    plan(warehouse, ("u1", 100))
    ledger.unit_started(connection, "u1")
    table = rows(*range(100), rejected={7: ["loop"]})
    pq.write_table(table, tmp_path / "validated.parquet")
    before = everything(connection)
    program = (
        "import sys, pyarrow.parquet as pq\n"
        "from capsfusion_tasks.settings import Settings\n"
        "from capsfusion_tasks.warehouse.connection import open_warehouse\n"
        "from capsfusion_tasks.warehouse.load import load_unit\n"
        "with open_warehouse(Settings(warehouse_url=sys.argv[1])) as warehouse:\n"
        "    load_unit(warehouse, 'u1', pq.read_table(sys.argv[2]))\n"
    )
    url = warehouse.url.render_as_string(hide_password=False)
    with merge_held(warehouse):
        process = subprocess.Popen([sys.executable, "-c", program, url, str(tmp_path / "validated.parquet")])
        waiting_backend(connection)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert everything(connection) == before
    # The server may take a moment to notice that the process is dead. Until then, the retry waits for the dead
    # process's lock.
    assert load_unit(warehouse, "u1", table) == LoadResult(99, 1, already_loaded=False)
    assert consistent(connection)
