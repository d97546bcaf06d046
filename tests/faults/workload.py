"""Starts the runs that faults break: ``capsfusion run`` over three days of sample shards, each run in its own home."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil
from sqlalchemy import text

from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.settings import Settings
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.warehouse.connection import open_warehouse
from tests import object_store
from tests.faults.network import Network
from tests.faults.result import Table, read_table

REPOSITORY = Path(__file__).resolve().parents[2]
Days = tuple[str, str]  # first day of a run, and the day after its last
DAYS = ("2026-11-10", "2026-11-11", "2026-11-12", "2026-11-13")
ALL_DAYS = (DAYS[0], DAYS[-1])
STAGES = ("discover", "pull", "pair", "plan", "start torchrun", "fuse", "validate and load", "report")
SECONDS = 240  # a run that takes longer counts as hung
COMMAND = "capsfusion_tasks.cli"
IN_ONE_PROCESS = "tests.one_process"  # this module runs ranks as threads, which saves seconds
SETTINGS = {
    "CAPSFUSION_NUM_BEAMS": "1",
    "CAPSFUSION_MAX_NEW_TOKENS": "24",
    "CAPSFUSION_BATCH_SIZE": "8",
    "CAPSFUSION_CHUNK_ROWS": "4",
    "CAPSFUSION_BUCKETS": "2",
    # Switches the rule same_caption off, because its verdicts depend on the captions that were loaded before, and
    # parallel runs load in any order.
    "CAPSFUSION_RULES__SAME_CAPTION_MAX": "1000",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Workload:
    """What all trials share: shards, a home with an empty warehouse to copy, and the results of an undisturbed run."""

    folder: Path
    expected: Table
    stage_seconds: Mapping[str, float]  # stage → seconds in the undisturbed run
    bucket: str | None = None  # URI of an S3 bucket that has the same shards
    unbroken: str = COMMAND  # module that starts the undisturbed run and the retries

    @property
    def shards(self) -> Path:
        return self.folder / "shards"

    @property
    def seconds(self) -> float:
        return sum(self.stage_seconds.values())

    @classmethod
    def prepare(
        cls, folder: Path, bucket: str | None = None, rows_per_day: int = 20, unbroken: str = COMMAND
    ) -> Workload:
        write_sample_data(folder / "shards", rows_per_day=rows_per_day)
        if bucket:
            object_store.upload(folder / "shards", f"{bucket}/faults/shards")
        _empty_home(folder / "home")
        unknown = cls(folder, Table([], []), {}, unbroken=unbroken)
        with unknown.site("unbroken") as site:
            run = site.run_unbroken()
            run.reaches("validate and load")
            if code := run.wait(SECONDS):
                raise RuntimeError(f"the undisturbed run ended with exit code {code}:\n" + "\n".join(run.lines))
            return cls(folder, site.table(), run.stage_seconds(), bucket, unbroken)

    @contextmanager
    def site(self, name: str, home: Path | None = None, **environment: str) -> Iterator[Site]:
        """Make a site in the folder ``home`` (default: a folder called ``name``). Deletes this folder afterwards."""
        home = home or self.folder / name
        copy_home(self.folder / "home", home)
        site = Site(self, home, environment)
        try:
            yield site
        finally:
            site.end_all()
            shutil.rmtree(home, ignore_errors=True)


@dataclass
class Site:
    """A home folder with its own PostgreSQL server, and the processes that use this home."""

    workload: Workload
    home: Path
    changes: dict[str, str]  # environment variables of this site's commands
    disk: Path = Path()  # where a separate disk is mounted, if the site has one
    network: Network = field(init=False)  # the network to S3 or PostgreSQL, if the fault breaks a network

    @property
    def environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CAPSFUSION_")}
        return {
            **inherited,
            **SETTINGS,
            "CAPSFUSION_HOME": str(self.home),
            "CAPSFUSION_SCRATCH": str(self.home / "scratch"),
            "CAPSFUSION_LAION2B": str(self.workload.shards / FOLDER["laion_2b"]),
            "CAPSFUSION_LAION_COCO": str(self.workload.shards / FOLDER["laion_coco"]),
            **self.changes,
        }

    @property
    def staging(self) -> Storage:
        return Storage(self.changes.get("CAPSFUSION_STAGING", str(self.home / "staging")))

    @property
    def data(self) -> Path:
        """The data folder of the PostgreSQL server."""
        return self.home / "postgres"

    def run(self, start: str = ALL_DAYS[0], end: str = ALL_DAYS[1], **environment: str) -> Run:
        return self.command("run", "--start", start, "--end", end, **environment)

    def run_unbroken(self, start: str = ALL_DAYS[0], end: str = ALL_DAYS[1]) -> Run:
        return Run(self, ["run", "--start", start, "--end", end], module=self.workload.unbroken)

    def command(self, *arguments: str, **environment: str) -> Run:
        return Run(self, list(arguments), environment)

    def table(self) -> Table:
        with open_warehouse(Settings(home=self.home)) as warehouse, warehouse.engine.connect() as connection:
            return read_table(connection)

    def processes(self) -> list[psutil.Process]:
        """The site's processes, except those of PostgreSQL, which keeps running after a run was killed."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if environment.get("CAPSFUSION_HOME") == str(self.home) and process.name() != "postgres":
                    found.append(process)
        return found

    def server(self) -> list[psutil.Process]:
        """PostgreSQL's processes, the postmaster first. Empty if the server does not run."""
        try:
            first = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
            return [first, *first.children(recursive=True)] if first.name() == "postgres" else []
        except (OSError, ValueError, IndexError, psutil.Error):
            return []

    def end_all(self) -> None:
        for process in [*self.processes(), *self.server()]:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.kill()
        psutil.wait_procs(self.processes(), timeout=10)


@dataclass
class Run:
    """A ``capsfusion`` command in its own process. The command's output shows which stage it has reached."""

    site: Site
    arguments: list[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    module: str = COMMAND

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self._stage_began = {STAGES[0]: self.began}
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments],
            cwd=REPOSITORY,
            env={**self.site.environment, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def wait(self, seconds: float) -> int:
        """Wait for the exit code; if negative, a signal ended the command. Raises subprocess.TimeoutExpired."""
        code = self.process.wait(seconds)
        self._reader.join(10)
        self._enter("ended")
        return code

    def reaches(self, stage: str) -> bool:
        """Wait until the stage begins. Returns False if the run ends before it reaches the stage."""
        while stage not in self._stage_began:
            if self.process.poll() is not None:
                return False
            if self.stage() == "start torchrun" and self._has_chunk():
                self._enter("fuse")
            time.sleep(0.05)
        return True

    def lingers_in(self, stage: str, seconds: float) -> None:
        """Wait until the stage ends, at most ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.stage() == stage and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)

    def stage(self) -> str:
        return list(self._stage_began)[-1]

    def stage_seconds(self) -> dict[str, float]:
        begins = list(self._stage_began.items())
        return {stage: end - begin for (stage, begin), (_, end) in pairwise(begins)}

    def processes(self, role: str) -> list[psutil.Process]:
        """The run's processes with this role: ``runner`` (the command itself), ``torchrun`` or ``rank``."""
        with suppress(psutil.Error):
            runner = psutil.Process(self.process.pid)
            if role == "runner":
                return [runner]
            return [process for process in runner.children(recursive=True) if _role(process) == role]
        return []

    def _read(self) -> None:
        assert self.process.stdout is not None
        shards = pulled = 0
        for line in self.process.stdout:
            self.lines.append(line.rstrip())
            if line.startswith("discover: "):
                shards = int(line.split()[1])
                self._enter("pull")
            pulled += line.startswith("pull: ")
            if pulled == shards > 0:
                self._enter("pair")
            if line.startswith("pair: "):
                self._enter("plan")
            if line.startswith("plan: ") and " units" in line:
                self._enter("start torchrun")
            if line.startswith("rank 0: ") and (rows := line.split()[2].split("/"))[0] == rows[-1]:
                self._enter("validate and load")
            if line.startswith("load: "):
                self._enter("report")

    def _enter(self, stage: str) -> None:
        self._stage_began.setdefault(stage, time.monotonic())

    def _has_chunk(self) -> bool:
        staging = self.site.staging
        return any(staging.files(f"units/{unit}/chunks") for unit in staging.folders("units"))


def _role(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        arguments = process.cmdline()
        if "capsfusion_tasks.fusion.torchrun" in arguments:
            return "torchrun"
        if "capsfusion_tasks.fusion.worker" in arguments:
            return "rank"
    return ""


def _empty_home(home: Path) -> None:
    with open_warehouse(Settings(home=home)) as warehouse:
        engine = warehouse.engine.execution_options(isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            # Even without fsync, a killed server loses no data, because the operating system has all written data.
            connection.execute(text("alter system set fsync = off"))
            connection.execute(text("alter system set shared_buffers = '32MB'"))
            connection.execute(text("alter system set max_wal_size = '64MB'"))
    # Copies of the home need no lock files, and no process holds the locks now.
    for name in (".postgres.gate", ".postgres.users"):
        (home / name).unlink(missing_ok=True)


def copy_home(source: Path, target: Path) -> None:
    """Copy a home whose server does not run, with the owners of its files."""
    shutil.copytree(source, target, symlinks=True, copy_function=_copy_with_owner, dirs_exist_ok=True)
    _copy_owners(source, target)


def _copy_with_owner(source: str, target: str) -> str:
    shutil.copy2(source, target)
    stat = os.stat(source)
    os.chown(target, stat.st_uid, stat.st_gid)
    return target


def _copy_owners(source: Path, target: Path) -> None:
    for folder in (source, *(path for path in source.rglob("*") if path.is_dir())):
        stat = folder.stat()
        os.chown(target / folder.relative_to(source), stat.st_uid, stat.st_gid)
