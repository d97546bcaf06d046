"""Fixtures that several test folders share, and how tests are marked and distributed."""

from __future__ import annotations

import tests.triton_interpreter  # noqa: F401

# isort: split
import gc
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from capsfusion_tasks import BUNDLED_MODEL
from capsfusion_tasks.fusion.tokenizer import LlamaTokenizer
from tests.checkpoint import write_checkpoint

# Only for types. Fixtures import these packages when they run, because machines that only test the engine lack them.
if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from xdist.scheduler import LoadFileScheduling

    from capsfusion_tasks.settings import Settings
    from capsfusion_tasks.warehouse.embedded import EmbeddedPostgres
    from tests.plugin_process import PluginProcess

gc.disable()  # until all tests are collected
# Keep compiled modules. Otherwise, each worker compiles all tests, and each process that a test starts our package.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
os.environ["CAPSFUSION_DEVICE"] = "cpu"  # even if there is a GPU: on a CPU, the dtype `auto` is float32
# Tests and their ranks share the cores. With two threads per process, a thread would spin while it waits for a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TEMPORARY_BYTES = 4 << 30  # more than the temporary files of a test session need
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_configure(config: pytest.Config) -> None:
    """Give the session its own temporary folder, and give Airflow's tests priority.

    The folder is in memory if there is room, because tests sync thousands of files, and each sync waits for the disk.
    If root runs the tests, the embedded PostgreSQL runs under another account, which needs access to the folder. So
    pytest's default folder cannot be used: each new session of root closes it to other accounts.
    """
    if os.environ.get("PYTEST_XDIST_WORKER", "gw0") != "gw0":
        os.nice(5)  # gw0 gets priority: it begins with Airflow's tests, which take longest
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ:
        parent = _temporary_parent()
        prefix = "capsfusion-tests-"
        for left in Path(parent).glob(f"{prefix}*-*"):  # folders that killed sessions left behind
            owner = left.name.removeprefix(prefix).split("-")[0]
            if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
                shutil.rmtree(left, ignore_errors=True)
        root = os.environ["PYTEST_DEBUG_TEMPROOT"] = tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=parent)
        config.add_cleanup(lambda: shutil.rmtree(root, ignore_errors=True))


def _temporary_parent() -> str:
    memory = Path("/dev/shm")  # noqa: S108 - a unique folder is made in it
    if memory.is_dir() and os.access(memory, os.W_OK):
        available = re.search(r"^MemAvailable: *(\d+) kB$", Path("/proc/meminfo").read_text(), re.M)
        unused = int(available[1]) << 10 if available else 0
        if min(shutil.disk_usage(memory).free, unused // 2) >= TEMPORARY_BYTES:
            return str(memory)
    return tempfile.gettempdir()


SLOW_FOLDERS = ("tests/airflow/", "tests/faults/", "tests/tasks/", "tests/upkeep/")
SLOW_FIXTURES = {"chromium", "stack"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests of whole runs, Airflow, browsers and containers as slow. Other slow tests have the mark already."""
    for item in items:
        if item.nodeid.startswith(SLOW_FOLDERS) or SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """Look for garbage again, but not among the objects of imported modules, which live until the session's end.

    They are more than a million. To look through them took a fifth of the time in which each worker imports all tests.
    """
    gc.freeze()
    gc.enable()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # so that pytest's last look for garbage with errors sees all of it


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling | None:
    from xdist.scheduler import LoadFileScheduling

    class Groups(LoadFileScheduling):
        """All tests of a file run in the same worker, and so do all tests of tests/airflow, which share an Airflow.

        The tests of tests/plugins share a process that has imported Airflow.
        """

        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return next((folder for folder in ("tests/airflow/", "tests/plugins/") if file.startswith(folder)), file)

    return Groups(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PluginProcess]:
    from tests.plugin_process import plugin_process

    with plugin_process(tmp_path_factory.mktemp("plugins")) as process:
        yield process


@pytest.fixture(scope="session")
def published_pairs() -> list[dict[str, Any]]:
    """5,000 pairs that CapsFusion's authors published, with their model's captions as capsfusion_official."""
    path = SHARED_DATA / "capsfusion_pairs.jsonl"
    if not path.exists():
        pytest.skip(f"the published pairs are not here: no {path}")
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="session")
def llama_tokenizer() -> LlamaTokenizer:
    """LLaMA's tokenizer, which BAAI/CapsFus-LLaMA also uses."""
    path = SHARED_DATA / "llama_tokenizer.model"
    if not path.exists():
        pytest.skip(f"LLaMA's tokenizer is not here: no {path}")
    return LlamaTokenizer(path)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA of a few thousand parameters with the demo model's tokenizer. Fast, but it writes nonsense."""
    tokenizer_model = BUNDLED_MODEL / "tokenizer.model"
    vocab_size = LlamaTokenizer(tokenizer_model).vocab_size
    return write_checkpoint(tmp_path_factory.mktemp("models") / "tiny", tokenizer_model, vocab_size=vocab_size)


@pytest.fixture
def one_process() -> Iterator[None]:
    """In tests with this fixture, ranks are threads of this process (tests/one_process.py)."""
    from tests.one_process import ranks_in_one_process

    with ranks_in_one_process():
        yield


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The system's Chromium, because playwright is installed without a browser."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with sync_playwright() as playwright:
        # Without Chromium's sandbox, which works neither as root nor in containers. The pages are our own.
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()


TEMPLATE = "migrated"
_numbers = count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL server for the whole session, with a migrated database as template."""
    from sqlalchemy import create_engine, text

    from capsfusion_tasks.warehouse.embedded import embedded_postgres
    from capsfusion_tasks.warehouse.migrate import upgrade
    from tests.compiled_once import statements_compiled_once

    databases = ["empty", TEMPLATE]
    with embedded_postgres(tmp_path_factory.mktemp("embedded"), databases) as server, statements_compiled_once():
        engine = create_engine(server.url(TEMPLATE))
        upgrade(engine)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # This makes the server faster. The tests' data need not survive a power failure.
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(text(f"alter system set {setting} = off"))
            connection.execute(text("select pg_reload_conf()"))
        engine.dispose()
        yield server


@contextmanager
def new_warehouse(postgres: EmbeddedPostgres) -> Iterator[str]:
    """URL of a migrated, empty warehouse. It is dropped after the block."""
    from sqlalchemy import create_engine, text

    database = f"test_{next(_numbers)}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        connection.execute(text(f"create database {database} template {TEMPLATE} strategy file_copy"))
        yield postgres.url(database).render_as_string(hide_password=False)
        connection.execute(text(f"drop database {database} with (force)"))
    admin.dispose()


def plain_url(settings: Settings) -> str:
    """The warehouse's URL, with its password."""
    assert settings.warehouse_url is not None
    return settings.warehouse_url.get_secret_value()


def login(postgres: EmbeddedPostgres, url: str, role: str) -> str:
    """Create a login that has only the role ``role``. Returns ``url`` for this login."""
    from sqlalchemy import create_engine, make_url, text

    name = f"a_{role}"
    admin = create_engine(postgres.url("postgres"), isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        if not connection.scalar(text("select count(*) from pg_roles where rolname = :name"), {"name": name}):
            connection.execute(text(f"create role {name} login in role {role}"))
    admin.dispose()
    return make_url(url).set(username=name).render_as_string(hide_password=False)


@pytest.fixture
def warehouse_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """URL of a migrated, empty warehouse for one test."""
    with new_warehouse(postgres) as url:
        yield url


@pytest.fixture(scope="session")
def s3_bucket() -> Iterator[str]:
    """URI of an empty bucket in a local S3 server. AWS's environment variables point to this server."""
    from tests import object_store

    with object_store.serving("capsfusion-tests") as bucket:
        yield bucket
