"""Tests the queries that `capsfusion sql` runs."""

from __future__ import annotations

import json
import subprocess
from decimal import Decimal
from uuid import UUID

import pyarrow as pa
import pytest
from sqlalchemy import Connection, text

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.warehouse.connection import Warehouse
from capsfusion_tasks.warehouse.load import load_unit
from capsfusion_tasks.warehouse.psql import psql_command
from capsfusion_tasks.warehouse.sql import execute_sql
from tests.warehouse.conftest import pair_id, plan, rows


def test_captions_come_back_as_plain_types(warehouse: Warehouse) -> None:
    plan(warehouse, ("u1", 2))
    load_unit(warehouse, "u1", rows(1, 2, rejected={2: ["loop"]}))
    table = execute_sql(warehouse, "select * from fused_captions")
    assert table["pair_id"].to_pylist() == [str(UUID(bytes=pair_id(1)))]
    assert table.schema.field("loaded_at").type == pa.timestamp("us", "UTC")
    assert execute_sql(warehouse, "select reasons from rejected_captions")["reasons"].to_pylist() == [["loop"]]
    [spec] = execute_sql(warehouse, "select spec from fusions")["spec"].to_pylist()
    assert json.loads(spec)["decoding"]["model"] == "demo"
    sums = execute_sql(warehouse, "select sum(rows_in) as rows, avg(rows_in) as mean from work_units; -- all")
    assert sums.to_pylist() == [{"rows": Decimal(2), "mean": Decimal(2)}]


@pytest.mark.parametrize(
    ("sql", "value"),
    [
        ("select null::numeric", None),
        ("select 'NaN'::numeric", "nan"),
        ("select 12.50::numeric", Decimal("12.50")),
        ("select -1e37::numeric", Decimal(-(10**37))),
        ("select 1e38::numeric", "1" + "0" * 38),
        ("select 1e400::numeric", "1" + "0" * 400),
        ("select -1234567890123456789012345678901234567890.25", "-1234567890123456789012345678901234567890.25"),
        ("select interval '1 month 2 days 3 ms'", "1 months 2 days 3000000 ns"),
        ("select null::uuid", None),
        ("select 'x' where false", []),
        ("show search_path", "capsfusion, public"),
    ],
)
def test_values(warehouse: Warehouse, sql: str, value: object) -> None:
    column = execute_sql(warehouse, sql).column(0).to_pylist()
    assert column == (value if value == [] else [value])


def test_column_names_can_repeat(warehouse: Warehouse) -> None:
    table = execute_sql(warehouse, "select 1 as n, 'x' as n")
    assert [column.to_pylist() for column in table.columns] == [[1], ["x"]]


def test_every_statement_runs_that_only_reads(warehouse: Warehouse) -> None:
    assert execute_sql(warehouse, "explain select 1").num_rows == 1
    assert execute_sql(warehouse, "with a as (values (1), (2)) select * from a -- two").num_rows == 2


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("select capfusion\nfrom fused_captions", r'column "capfusion" does not exist.*Perhaps.*\(line 1, column 8\)'),
        ("select\n  1 +", r"syntax error at end of input \(line 2, column 6\)"),
        ("delete from fused_captions", "returns no rows, but only queries are run, in a read-only transaction"),
        ("with a as (delete from fused_captions returning 1) select * from a", "in a read-only transaction"),
        ("select 1; select 2", "cannot insert multiple commands"),
        ("select row(1, 2)", "cannot be shown.*cast the column to text"),
        ("select 1 as n, inet '10.0.0.1' as a", "column a .* inet, which cannot be shown; cast the column to text"),
        ("select array[int4range(1, 2)]", "cannot be shown; cast the column to text"),
        ("select array[interval '1 day'] as a", r"column a .* type interval\[\], which cannot be shown"),
        ("copy work_units to stdout", "returns no rows.*to write a file, use select with --format"),
        (" ", "empty"),
        ("-- nothing", "returns no rows"),
    ],
)
def test_what_fails_is_explained(warehouse: Warehouse, sql: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        execute_sql(warehouse, sql)


def test_a_lost_server_is_no_fault_of_the_statement(warehouse: Warehouse) -> None:
    with pytest.raises(NotReadyError, match="try again"):
        execute_sql(warehouse, "select pg_terminate_backend(pg_backend_pid())")
    gone = Warehouse(warehouse.engine, warehouse.url.update_query_dict({"host": "/nonexistent"}))
    with pytest.raises(NotReadyError, match="try again"):
        execute_sql(gone, "select 1")


def test_psql_starts_in_the_schema(warehouse: Warehouse, connection: Connection) -> None:
    command, environment = psql_command(warehouse)
    said = subprocess.run(
        [*command, "-At", "-c", "select count(*) from fused_captions"], env=environment, capture_output=True, text=True
    )
    assert (said.stdout, said.stderr) == ("0\n", "")
    assert connection.scalar(text("select 1")) == 1


def test_parameters_of_the_url_may_have_spaces(warehouse: Warehouse) -> None:
    url = warehouse.url.update_query_dict({"options": "-c work_mem=7MB", "application_name": "a+b"})
    spaced = Warehouse(warehouse.engine, url)
    shown = "select current_setting('work_mem') || ' ' || current_setting('application_name')"
    assert execute_sql(spaced, shown).column(0).to_pylist() == ["7MB a+b"]
    command, environment = psql_command(spaced)
    # psql would use this variable instead of the options in the URL.
    environment.pop("PGOPTIONS")
    said = subprocess.run([*command, "-At", "-c", shown], env=environment, capture_output=True, text=True)
    assert (said.stdout, said.stderr) == ("7MB a+b\n", "")


def test_psql_gets_the_password_by_environment(warehouse: Warehouse) -> None:
    url = warehouse.url.set(password="p@ss word")  # noqa: S106
    command, environment = psql_command(Warehouse(warehouse.engine, url))
    assert environment["PGPASSWORD"] == "p@ss word"
    assert command[-1] == str(warehouse.url).replace("+psycopg", "")
