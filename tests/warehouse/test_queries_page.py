"""Runs the queries of docs/queries.md. Each finds rows, and together they use every index of the caption tables."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from capsfusion_tasks.settings import Settings
from capsfusion_tasks.warehouse.caption_tables import fused_captions, rejected_captions
from capsfusion_tasks.warehouse.connection import Warehouse, open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.roles import READER
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.conftest import login, new_warehouse

pytestmark = pytest.mark.slow

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text()
QUERIES = re.findall(r"^ {4}select (?:.*\n)(?: {4}.*\n)*", PAGE, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def filled(postgres: EmbeddedPostgres) -> Iterator[Warehouse]:
    names = ", ".join(fused_captions.columns.keys())
    with new_warehouse(postgres) as url, open_warehouse(Settings(warehouse_url=url)) as warehouse:
        with psycopg.connect(warehouse.adbc_uri) as connection:
            connection.execute((Path(__file__).parent / "queries_page.sql").read_text())
            connection.execute(f"insert into fused_captions ({names}) select {names} from columns where why is null")
            both = ", ".join(
                column.name for column in fused_captions.columns if column.name in rejected_captions.columns
            )
            connection.execute(
                f"insert into rejected_captions ({both}, reasons) select {both}, why from columns where why is not null"
            )
            # Makes unit-40 (second fusion) a replay of the captions that were rejected in unit-0 (first fusion).
            connection.execute(
                "update work_units set interval_start = null, interval_end = null, replay = 'manual__2026-11-13',"
                " replay_of = '3f9a1c20b7de' where unit_id = 'unit-40'"
            )
            connection.execute(
                "with gone as (delete from rejected_captions where unit_id = 'unit-0' returning *)"
                f" insert into replayed_captions ({both}, reasons, replayed_by)"
                f" select {both}, reasons, 'unit-40' from gone"
            )
            connection.execute("drop table made cascade")
            connection.commit()
            connection.autocommit = True
            connection.execute("vacuum analyze")
        yield warehouse


@pytest.fixture(scope="module")
def reader(postgres: EmbeddedPostgres, filled: Warehouse) -> Iterator[Warehouse]:
    """The warehouse ``filled``, opened with a login that may only read."""
    url = login(postgres, filled.url.render_as_string(hide_password=False), READER)
    with open_warehouse(Settings(warehouse_url=url)) as warehouse:
        yield warehouse


def test_the_page_has_its_queries() -> None:
    assert len(QUERIES) >= 20


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: " ".join(query.split())[:60])
def test_a_query_finds_something(reader: Warehouse, query: str) -> None:
    found = execute_sql(reader, query)
    assert found.num_rows
    assert all(any(column.is_valid().to_pylist()) for column in found.columns), "a column is empty"


def test_each_index_of_captions_is_used_by_a_query_of_the_page(filled: Warehouse) -> None:
    plans = [line for query in QUERIES for line in execute_sql(filled, f"explain {query}").column(0).to_pylist()]
    used = set(re.findall(r"\w+_(?:idx|pkey)", "\n".join(plans)))
    indexes = {str(index.name) for table in (fused_captions, rejected_captions) for index in table.indexes}
    assert indexes - used == set()


@pytest.mark.parametrize(
    "query",
    [
        "select * from captions where image_url = 'https://example.com/images/4711.jpg'",
        "select * from captions where pair_id = md5('4711')::uuid",
        "select * from captions where to_tsvector('english', capsfusion) @@ to_tsquery('english', 'bicycle') limit 10",
        "select * from captions where fusion_id = '81d0e4c2a95b' order by loaded_at desc, pair_id desc limit 50",
        "select * from captions limit 10",
    ],
)
def test_a_part_of_the_view_is_read_without_the_whole_table(filled: Warehouse, query: str) -> None:
    [plan] = json.loads(execute_sql(filled, f"explain (analyze, format json) {query}").column(0).to_pylist()[0])
    assert max(rows_read(plan["Plan"])) < 2000


def test_what_a_query_does_not_ask_of_the_view_is_not_looked_up(filled: Warehouse) -> None:
    asked = "explain select {} from captions where pair_id = md5('4711')::uuid"
    plain, with_model = (
        str(execute_sql(filled, asked.format(what)).to_pydict()) for what in ("license", "capsfusion_model")
    )
    assert "shards" not in plain + with_model
    assert "fusions" not in plain
    assert "fusions" in with_model


def rows_read(node: dict[str, Any]) -> Iterator[int]:
    """For each scan in a query plan, the number of rows that it read, including rows that a filter then removed."""
    if "Scan" in node["Node Type"]:
        yield int(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
    for part in node.get("Plans", []):
        yield from rows_read(part)


def test_the_view_has_the_newest_accepted_caption_of_each_pair(filled: Warehouse) -> None:
    shown = execute_sql(
        filled,
        "select count(*) as captions, count(distinct pair_id) as pairs,"
        " count(*) filter (where fusion_id = '81d0e4c2a95b') as newer from captions",
    ).to_pylist()
    both = {n for n in range(40_000) if n % 9 == 0}
    pairs = 40_000 - len({n for n in both if n % 7 == 0})
    assert shown == [{"captions": pairs, "pairs": pairs, "newer": 40_000 - len(both)}]
