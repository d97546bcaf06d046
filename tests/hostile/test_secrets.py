"""Plants a secret in every setting that takes one, then searches a run's output, arguments and files for secrets."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
import psycopg
import pyarrow.parquet as pq
import pytest

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.shards.http import HttpSource
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
from capsfusion_tasks.warehouse.socket_folder import PORT
from capsfusion_tasks.warehouse.url import libpq_uri, parse_url
from tests import object_store
from tests.conftest import new_warehouse
from tests.shards.web_server import File, WebServer
from tests.warehouse.cutting_proxy import CuttingProxy

pytestmark = pytest.mark.slow

PLANTED = "pl4nted"  # every secret contains this text, and no other text contains it
START = datetime(2026, 11, 10, tzinfo=UTC)


@dataclass
class Run:
    """What a run left behind: its output, the arguments of its processes, and where its files and tables are."""

    output: str
    arguments: set[str]  # command lines of all of its processes
    folder: Path
    bucket: str
    warehouse: str


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebServer]:
    """A web server with raw shards, one of them broken, and their list. All URLs have a secret in their query."""
    folder = tmp_path_factory.mktemp("sources")
    write_sample_data(folder, rows_per_day=30, days=1)
    with WebServer().running() as server:
        listed = []
        for file in sorted((folder / FOLDER["laion_2b"]).rglob("*.parquet")):
            arrived = datetime.fromtimestamp(file.stat().st_mtime, UTC)
            server.files[f"/{file.name}"] = File(file.read_bytes(), arrived=arrived)
            listed.append(f"{file.name}?X-Amz-Signature={PLANTED}")
        server.files["/broken.parquet"] = File(b"PAR1 and no more", arrived=START)
        server.files["/list.txt"] = File("\n".join([*listed, f"broken.parquet?sig={PLANTED}"]).encode())
        server.folder = folder  # type: ignore[attr-defined]
        yield server


@pytest.fixture(scope="module")
def run(
    web: WebServer,
    s3_bucket: str,
    postgres: EmbeddedPostgres,
    tiny_model: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Run]:
    folder, bucket = tmp_path_factory.mktemp("run"), f"{s3_bucket}/secrets"
    object_store.upload(web.folder / FOLDER["laion_coco"], f"{bucket}/coco")  # type: ignore[attr-defined]
    socket = postgres.socket_folder / f".s.PGSQL.{PORT}"
    with new_warehouse(postgres) as url, CuttingProxy(socket) as proxy:
        environment = os.environ | {
            "CAPSFUSION_HOME": str(folder / "home"),
            "CAPSFUSION_SCRATCH": str(folder / "scratch"),
            "CAPSFUSION_STAGING": f"{bucket}/staging",
            "CAPSFUSION_WAREHOUSE_URL": f"postgresql://postgres:{PLANTED}@127.0.0.1:{proxy.port}/{parse_url(url).database}",
            "CAPSFUSION_LAION2B": f"{web.url}/list.txt?token={PLANTED}",
            "CAPSFUSION_LAION_COCO": f"{bucket}/coco",
            "CAPSFUSION_MODEL": str(tiny_model),
            "CAPSFUSION_NUM_BEAMS": "1",
            "CAPSFUSION_MAX_NEW_TOKENS": "4",
            "CAPSFUSION_BUCKETS": "2",
            "AWS_ACCESS_KEY_ID": f"AKIA{PLANTED}",
            "AWS_SECRET_ACCESS_KEY": f"{PLANTED}/{PLANTED}",
            "HF_TOKEN": f"hf_{PLANTED}",
        }
        output, arguments = "", set[str]()
        for command in (
            ["run", "--start", "2026-11-10", "--end", "2026-11-11", "--accept-rejections"],
            ["status"],
            ["export", str(folder / "export")],
        ):
            process = subprocess.Popen(
                [sys.executable, "-m", "capsfusion_tasks.cli", *command],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            watcher = threading.Thread(target=watch, args=(process, arguments))
            watcher.start()
            output += process.communicate(timeout=250)[0]
            watcher.join()
        yield Run(output, arguments, folder, bucket, url)


def watch(process: subprocess.Popen[str], arguments: set[str]) -> None:
    """Collect the arguments of ``process`` and of all processes that it starts."""
    while process.poll() is None:
        try:
            mine = psutil.Process(process.pid)
            arguments.update(" ".join(each.cmdline()) for each in [mine, *mine.children(recursive=True)])
        except psutil.Error:
            pass
        time.sleep(0.05)  # every process lives longer than this


@pytest.mark.timeout(300)
def test_a_run_shows_no_secret_and_leaves_none_behind(run: Run) -> None:
    assert "broken.parquet? cannot be read as Parquet" in run.output, "it got as far as errors with addresses in them"
    assert "accepted" in run.output
    assert PLANTED not in run.output
    assert any("capsfusion_tasks.fusion.torchrun" in each for each in run.arguments)
    assert not [each for each in run.arguments if PLANTED in each]
    left = [file for file in run.folder.rglob("*") if file.is_file()]
    assert any(file.name == "_manifest.json" for file in left)
    assert not [file for file in left if PLANTED.encode() in file.read_bytes()]


def test_neither_the_staging_area_nor_the_warehouse_has_one(run: Run) -> None:
    storage = Storage(f"{run.bucket}/staging")
    names = [key.partition("staging/")[2] for key in object_store.objects(f"{run.bucket}/staging")]
    assert {"json", "parquet"} <= {name.rpartition(".")[2] for name in names}
    assert PLANTED not in str(names)
    for name in names:
        if name.endswith(".parquet"):
            table = pq.read_table(name, filesystem=storage.filesystem)
            assert PLANTED not in f"{table.schema} {table.to_pylist()}", name
        else:
            assert PLANTED.encode() not in storage.filesystem.open_input_stream(name).read(), name
    with psycopg.connect(libpq_uri(parse_url(run.warehouse))) as connection:
        tables = connection.execute(
            "select relname from pg_stat_user_tables where schemaname = 'capsfusion'"
        ).fetchall()
        assert ("work_units",) in tables
        for (table,) in tables:
            found = connection.execute(f"select count(*) from capsfusion.{table} t where t::text like '%{PLANTED}%'")  # type: ignore[arg-type]
            assert found.fetchone() == (0,), table
        stored = connection.execute("select path from capsfusion.shards where state = 'failed'").fetchall()
        assert stored == [("broken.parquet?",)]


def settings() -> Settings:
    return Settings(warehouse_url=f"postgresql://me:{PLANTED}@127.0.0.1:1/x", staging="/nowhere")  # type: ignore[arg-type]


def warehouse_that_is_gone() -> None:
    with open_warehouse(settings()):
        pass


def s3_without_an_answer() -> None:
    Storage("s3://bucket/prefix").exists("x")


@pytest.mark.parametrize(
    "fails",
    [
        warehouse_that_is_gone,
        lambda: parse_url(f"postgresql://me:{PLANTED}@host:port/x"),
        lambda: parse_url(f"mysql://me:{PLANTED}@host/x"),
        lambda: parse_url(f"postgresql://me@host/x?sslpassword={PLANTED}"),
        lambda: HttpSource(f"https://me:{PLANTED}@host/list.txt", Path("/nowhere")),
        lambda: list(HttpSource(f"http://127.0.0.1:1/\x00?sig={PLANTED}", Path("/nowhere")).files(bool)),
        lambda: Storage(f"s3://AKIA{PLANTED}:a/{PLANTED}@bucket/prefix"),
    ],
    ids=["gone", "no port", "MySQL", "key's password", "login", "signed", "keys in the address"],
)
def test_an_error_has_no_secret_in_it_nor_in_what_led_to_it(fails: Callable[[], object]) -> None:
    with pytest.raises(Exception, match=r".") as caught:
        fails()
    assert PLANTED not in str(caught.value)
    # The traceback's texts, without its lines of code, because here the code itself contains the secret.
    whole = traceback.TracebackException.from_exception(caught.value, lookup_lines=False, capture_locals=False)
    said, each = [], whole
    while each is not None:
        said.append(str(each))
        each = each.__cause__  # type: ignore[assignment]
    assert PLANTED not in " ".join(said)


def test_settings_hide_the_password_wherever_they_are_shown_and_pass_it_on_where_they_must() -> None:
    assert PLANTED not in f"{settings()} {settings()!r} {settings().model_dump()} {settings().model_dump_json()}"
    assert PLANTED in settings().environment()["CAPSFUSION_WAREHOUSE_URL"]
