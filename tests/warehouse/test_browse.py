"""Compares pages of captions with a scan of all rows, and tests the lineage of a caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import text

from capsfusion_tasks.caption_filter import CaptionFilter
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Unit
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse import browse, fusions, ledger
from capsfusion_tasks.warehouse.browse import Caption, caption_page
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.lineage import lineage
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.conftest import new_warehouse
from tests.warehouse.conftest import DAY, FUSION, pair_id, rows

NEXT_DAY = Interval(start=DAY.end, end=DAY.end + timedelta(days=1))
HOSTILE = "it's a \\ 100% 'bicycle' :x; drop table fused_captions --"


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[Warehouse]:
    """Two fusions of the same pairs. Each has a day, a waiting unit, and a loaded unit with a third of it rejected."""
    units = (("f1", "u1", DAY, "run 1", 12), ("f2", "u2", NEXT_DAY, "run 2", 20))
    with new_warehouse(postgres) as url, open_warehouse(Settings(warehouse_url=url)) as warehouse:
        for fusion_id, unit_id, interval, run, count in units:
            with warehouse.engine.begin() as connection:
                fusions.register(connection, FUSION.model_copy(update={"fusion_id": fusion_id}), {})
                waits = Unit(unit_id=f"{unit_id}-waits", fusion_id=fusion_id, rows=7, tokens=7)
                unit = Unit(unit_id=unit_id, fusion_id=fusion_id, rows=count, tokens=100)
                ledger.register_units(connection, [unit, waits], interval, run)
            table = rows(*range(count), rejected={n: ["truncated", "copy"][: 1 + n % 2] for n in range(0, count, 3)})
            captions = [f"A red bicycle number {n}" if n % 4 else f"Two houses, {HOSTILE}" for n in range(count)]
            table = table.set_column(table.schema.get_field_index("capsfusion"), "capsfusion", [captions])
            table = table.set_column(
                table.schema.get_field_index("novelty"), "novelty", [[n / 20 for n in range(count)]]
            )
            flags = [["verbatim"] if n % 5 == 0 else [] for n in range(count)]
            table = table.set_column(table.schema.get_field_index("flags"), "flags", [flags])
            load_unit(warehouse, unit_id, table, run)
        with warehouse.engine.begin() as connection:
            shard = {"source": "/data", "etag": "e", "size_bytes": 1, "arrived_at": DAY.start}
            found = [Shard(shard_id="laion_2b_shard 4", side="laion_2b", path="raw/4.parquet", **shard)]
            ledger.record_shards(connection, [*found, Shard(shard_id="c", side="laion_coco", path="4", **shard)])
        yield warehouse


def pages(warehouse: Warehouse, wanted: CaptionFilter, limit: int) -> list[list[Caption]]:
    found, after = [], None
    with warehouse.engine.connect() as connection:
        while True:
            page = caption_page(connection, wanted, after, limit)
            found.append(page.rows)
            after = page.following
            if after is None:
                return found


def keys(found: list[Caption]) -> list[tuple[datetime, UUID, str]]:
    return [(row.loaded_at, row.pair_id, row.fusion_id) for row in found]


@pytest.mark.parametrize("limit", [1, 5, 31, 32, 100])
def test_pages_show_every_caption_once_and_the_newest_first(filled: Warehouse, limit: int) -> None:
    found = pages(filled, CaptionFilter(), limit)
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit
    shown = keys([row for page in found for row in page])
    assert len(shown) == len(set(shown)) == 32
    assert shown == sorted(shown, reverse=True)


def number(row: Caption) -> int:
    return int(row.laion_2b.removeprefix("laion_2b "))


Meets = Callable[[Caption], bool]
FILTERS: list[tuple[CaptionFilter, Meets]] = [
    (CaptionFilter(verdict="accepted"), lambda row: row.reasons is None),
    (CaptionFilter(verdict="rejected"), lambda row: row.reasons is not None),
    (CaptionFilter(reason="copy"), lambda row: "copy" in (row.reasons or ())),
    (CaptionFilter(reason="copy", verdict="accepted"), lambda row: "copy" in (row.reasons or ())),
    (CaptionFilter(words="bicycles"), lambda row: "bicycle" in row.capsfusion),
    (CaptionFilter(words='"red bicycle"'), lambda row: "red bicycle" in row.capsfusion),
    (CaptionFilter(words="bicycle -red"), lambda row: "red" not in row.capsfusion),
    (CaptionFilter(words=HOSTILE.partition("--")[0]), lambda row: HOSTILE in row.capsfusion),
    (CaptionFilter(words="elephant"), lambda row: False),
    (CaptionFilter(flag="verbatim"), lambda row: number(row) % 5 == 0),
    (CaptionFilter(fusion_id="f1"), lambda row: row.fusion_id == "f1"),
    (CaptionFilter(fusion_id="'; drop table fusions; --"), lambda row: False),
    (CaptionFilter(day=date(2026, 11, 11)), lambda row: row.fusion_id == "f2"),
    (CaptionFilter(day=date(2026, 11, 12)), lambda row: False),
    (CaptionFilter(dag_run_id="run 1"), lambda row: row.fusion_id == "f1"),
    (
        CaptionFilter(dag_run_id="run 1", words="red", verdict="rejected"),
        lambda row: row.fusion_id == "f1" and row.reasons is not None and "red" in row.capsfusion,
    ),
    (CaptionFilter(shard="raw/4.parquet"), lambda row: number(row) == 4),
    (CaptionFilter(shard="laion_2b_shard 4"), lambda row: number(row) == 4),
    (CaptionFilter(shard="no such file"), lambda row: False),
    (CaptionFilter(score="novelty", score_min=0.25, score_max=0.5), lambda row: 5 <= number(row) <= 10),
    (CaptionFilter(score="novelty", score_min=0.25, score_below=0.5), lambda row: 5 <= number(row) < 10),
    (CaptionFilter(words="3", within="raw"), lambda row: number(row) == 3),
    (CaptionFilter(words="laion_coco", within="synthetic"), lambda row: True),
    (CaptionFilter(words="bicycle", within="synthetic"), lambda row: False),
    (CaptionFilter(url="image_url 3"), lambda row: number(row) == 3),
    (CaptionFilter(pair_id=UUID(bytes=pair_id(3))), lambda row: number(row) == 3),
    (CaptionFilter(dag_run_id="UN 2"), lambda row: row.fusion_id == "f2"),
    (CaptionFilter(shard="AW/4"), lambda row: number(row) == 4),
    (CaptionFilter(score="novelty", score_min=0.9), lambda row: number(row) >= 18),
]


@pytest.mark.parametrize(("wanted", "meets"), FILTERS, ids=[str(number) for number in range(len(FILTERS))])
def test_a_filter_finds_what_meets_it(filled: Warehouse, wanted: CaptionFilter, meets: Meets) -> None:
    [everything] = pages(filled, CaptionFilter(), 100)
    expected = keys([row for row in everything if meets(row)])
    assert keys([row for page in pages(filled, wanted, 3) for row in page]) == expected


@pytest.mark.parametrize(("newest", "limit"), [(1, 1), (2, 3), (5, 8)])
def test_pages_of_both_tables_show_every_rare_match_once(
    filled: Warehouse, monkeypatch: pytest.MonkeyPatch, newest: int, limit: int
) -> None:
    """A scan of few captions reaches further back in the table of rejected captions, which has fewer rows."""
    monkeypatch.setattr(browse, "_NEWEST", newest)
    [everything] = pages(filled, CaptionFilter(), 100)
    for wanted, meets in FILTERS:
        expected = keys([row for row in everything if meets(row)])
        assert keys([row for page in pages(filled, wanted, limit) for row in page]) == expected, wanted


@pytest.mark.parametrize(("wanted", "meets"), FILTERS, ids=[str(number) for number in range(len(FILTERS))])
def test_the_sql_that_is_shown_gives_the_same_rows(filled: Warehouse, wanted: CaptionFilter, meets: Meets) -> None:
    with filled.engine.connect() as connection:
        first = caption_page(connection, wanted, limit=3)
        second = caption_page(connection, wanted, first.following, limit=3)
    for page in (first, second):
        shown = execute_sql(filled, page.sql).to_pylist()
        assert [(row["pair_id"], row["fusion_id"]) for row in shown] == [
            (str(row.pair_id), row.fusion_id) for row in page.rows
        ]
        assert len(shown) <= 3


def test_a_caption_has_its_lineage(filled: Warehouse) -> None:
    with filled.engine.connect() as connection:
        found = lineage(connection, UUID(bytes=pair_id(4)), "f1")
    assert found is not None
    caption, file, unit, fusion = found.caption, found.laion_2b_file, found.unit, found.fusion
    assert file is not None
    assert unit is not None
    assert fusion is not None
    assert (file["path"], caption["laion_2b_row"]) == ("raw/4.parquet", 4)
    assert found.laion_coco_file is None, "the ledger does not know this one"
    assert (unit["unit_id"], unit["interval_start"]) == ("u1", datetime(2026, 11, 10, tzinfo=UTC))
    assert (caption["dag_run_id"], fusion["num_beams"], caption["reasons"]) == ("run 1", 3, None)
    assert [other["fusion_id"] for other in found.others] == ["f2"]


def test_a_rejected_caption_has_its_lineage_and_one_that_is_not_there_has_none(filled: Warehouse) -> None:
    with filled.engine.connect() as connection:
        rejected = lineage(connection, UUID(bytes=pair_id(3)), "f2")
        assert rejected is not None
        assert rejected.caption["reasons"] == ["truncated", "copy"]
        assert lineage(connection, UUID(bytes=pair_id(3)), "f3") is None
        assert lineage(connection, UUID(bytes=pair_id(99)), "f1") is None


def test_a_page_of_a_large_unit_reads_no_more_than_its_rows(filled: Warehouse) -> None:
    with filled.engine.connect() as connection:
        connection.execute(text("set local enable_seqscan = off"))
        page = caption_page(connection, CaptionFilter(verdict="accepted"), limit=3)
        plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"explain {page.sql}"))
    assert "fused_captions_loaded_at_idx" in plan
    assert "Presorted Key: caption.loaded_at, caption.pair_id" in plan or "Presorted Key: loaded_at, pair_id" in plan
