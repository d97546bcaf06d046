"""Defines the faults. Each fault is real, hits a run at a random moment, and ends before the retry."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import psutil

from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.warehouse.embedded import embedded_postgres
from capsfusion_tasks.warehouse.socket_folder import PORT
from tests.faults import disks
from tests.faults.network import Mode, Network
from tests.faults.workload import ALL_DAYS, DAYS, STAGES, Days, Run, Site, Workload

_FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)
Place = Callable[[Workload, str], AbstractContextManager[Site]]
FUSING = ("start torchrun", "fuse")


@dataclass
class Strike:
    """What a fault acts on: the site, the run to break, and the trial's random numbers."""

    site: Site
    run: Run
    random: Random
    others: list[Run] = field(default_factory=list)  # runs that the fault itself has started

    def signal(self, processes: list[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@contextmanager
def _usual(workload: Workload, trial: str) -> Iterator[Site]:
    with workload.site(trial) as site:
        yield site


@dataclass(frozen=True)
class Fault:
    name: str
    strike: Callable[[Strike], None]  # causes the fault; ``lift`` ends a fault that lasts
    lift: Callable[[Site], None] = lambda site: None
    stages: tuple[str, ...] = STAGES  # the stages in which the fault may hit a run
    place: Place = _usual
    first: Callable[[Random], dict[str, str]] = lambda random: {}  # variables for the broken run
    days: tuple[Days, ...] = (ALL_DAYS,)  # days of each run; the first run is the one to break
    why_not: Callable[[], str | None] = lambda: None  # returns why this machine cannot cause the fault, or None


# -- Processes --------------------------------------------------------------------------------------------------------


def _one(role: str, number: signal.Signals) -> Callable[[Strike], None]:
    def strike(on: Strike) -> None:
        if found := _appear(on, role):
            on.signal([on.random.choice(found)], number)

    return strike


def _appear(on: Strike, role: str) -> list[psutil.Process]:
    """Wait until the run has processes with that role, and return them. Empty if the run ends first."""
    while on.run.process.poll() is None:
        if found := on.run.processes(role):
            return found
        time.sleep(0.02)
    return []


def _stopped(role: str) -> Callable[[Strike], None]:
    def strike(on: Strike) -> None:
        found = on.site.server() if role == "server" else _appear(on, role)
        on.signal(found, signal.SIGSTOP)
        time.sleep(on.random.uniform(1, 5))
        on.signal(found, signal.SIGCONT)

    return strike


def _kill_server(on: Strike) -> None:
    on.signal(on.site.server(), signal.SIGKILL)


def _kill_backend(on: Strike) -> None:
    if backends := on.site.server()[1:]:
        on.signal([on.random.choice(backends)], signal.SIGKILL)


def _kill_all(on: Strike) -> None:
    on.signal([*on.site.server(), *on.site.processes()], signal.SIGKILL)


def _two_ranks(_: Random) -> dict[str, str]:
    return {"CAPSFUSION_NPROC_PER_NODE": "2"}


# -- Disks ------------------------------------------------------------------------------------------------------------


def _disk(folder: str, megabytes: int) -> Place:
    """Makes sites whose ``folder`` (home, staging or scratch) is on a separate small disk."""

    @contextmanager
    def place(workload: Workload, trial: str) -> Iterator[Site]:
        with disks.disk(workload.folder / f"{trial}-disk", megabytes) as mounted:
            home = mounted / "home" if folder == "home" else None
            with workload.site(trial, home) as site:
                if home is None:
                    site.changes[f"CAPSFUSION_{folder.upper()}"] = str(mounted / folder)
                else:  # only the PostgreSQL server's files are on the disk
                    elsewhere = workload.folder / f"{trial}-files"
                    site.changes |= {
                        f"CAPSFUSION_{name}": str(elsewhere / name.lower()) for name in ("STAGING", "SCRATCH")
                    }
                site.disk = mounted
                yield site

    return place


def _fill(on: Strike) -> None:
    disks.fill(on.site.disk, leave=on.random.choice([0, 0, 4096, 20_000]))
    _wait(on, 60)


def _make_room(site: Site) -> None:
    disks.make_room(site.disk)


def _close(on: Strike) -> None:
    if disks.close(on.site.disk):
        _wait(on, 60)


def _reopen(site: Site) -> None:
    disks.reopen(site.disk)


def _wait(on: Strike, seconds: float) -> None:
    """Let the fault last until it makes the run fail, but at most ``seconds``."""
    with suppress(subprocess.TimeoutExpired):
        on.run.wait(seconds)


# -- Networks ---------------------------------------------------------------------------------------------------------


@contextmanager
def _far_warehouse(workload: Workload, trial: str) -> Iterator[Site]:
    with (
        workload.site(trial) as site,
        embedded_postgres(site.home) as server,
        Network(server.socket_folder / f".s.PGSQL.{PORT}") as site.network,
    ):
        url = server.url().set(drivername="postgresql", host="127.0.0.1", port=site.network.port, query={})
        site.changes["CAPSFUSION_WAREHOUSE_URL"] = url.render_as_string()
        yield site


@contextmanager
def _object_store(workload: Workload, trial: str) -> Iterator[Site]:
    with Network(urlsplit(os.environ["AWS_ENDPOINT_URL"]).port or 80) as network:
        changes = {
            "CAPSFUSION_STAGING": f"{workload.bucket}/faults/{trial}",
            "CAPSFUSION_LAION2B": f"{workload.bucket}/faults/shards/{FOLDER['laion_2b']}",
            "CAPSFUSION_LAION_COCO": f"{workload.bucket}/faults/shards/{FOLDER['laion_coco']}",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{network.port}",
        }
        with workload.site(trial, **changes) as site:
            site.network = network
            yield site


def _network(mode: Mode, seconds: tuple[float, float]) -> Callable[[Strike], None]:
    def strike(on: Strike) -> None:
        on.site.network.turn(mode)
        _wait(on, on.random.uniform(*seconds))
        on.site.network.turn("well")

    return strike


# -- Clocks and other runs --------------------------------------------------------------------------------------------


def _clock(random: Random) -> dict[str, str]:
    [library] = [each for each in _FAKETIME if each.exists()]
    days = random.choice([-400, -9, -2, 3, 400])
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{days:+d}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _no_clock() -> str | None:
    return None if any(each.exists() for each in _FAKETIME) else "no libfaketime here: apt-get install libfaketime"


@contextmanager
def _beside_its_server(workload: Workload, trial: str) -> Iterator[Site]:
    """A site whose PostgreSQL server is started outside the run, so that only the run's clock is wrong."""
    with workload.site(trial) as site, embedded_postgres(site.home):
        yield site


def _another(days: Days) -> Callable[[Strike], None]:
    def strike(on: Strike) -> None:
        on.others.append(on.site.run(*days))

    return strike


def _another_and_kill_one(days: Days) -> Callable[[Strike], None]:
    def strike(on: Strike) -> None:
        other = on.site.run(*days)
        on.others.append(other)
        victim = on.random.choice([on.run, other])
        if victim.reaches(on.random.choice(STAGES)):
            on.signal(victim.processes("runner"), signal.SIGKILL)

    return strike


TWICE = (ALL_DAYS, ALL_DAYS)
EARLY = STAGES[:6]  # early stages, in which both runs still have work to do
OVERLAPPING = ((DAYS[0], DAYS[2]), (DAYS[1], DAYS[3]))
FAULTS = (
    Fault("kill -9 the command", _one("runner", signal.SIGKILL)),
    Fault("kill the command", _one("runner", signal.SIGTERM)),
    Fault("kill -9 torchrun", _one("torchrun", signal.SIGKILL), stages=FUSING),
    Fault("kill torchrun", _one("torchrun", signal.SIGTERM), stages=FUSING),
    Fault("kill -9 a rank of two", _one("rank", signal.SIGKILL), stages=FUSING, first=_two_ranks),
    Fault("kill a rank", _one("rank", signal.SIGTERM), stages=FUSING),
    Fault("kill -9 PostgreSQL", _kill_server),
    Fault("kill -9 a backend of it", _kill_backend),
    Fault("kill -9 everything at once", _kill_all),
    Fault("stop the command for seconds", _stopped("runner")),
    Fault("stop a rank for seconds", _stopped("rank"), stages=FUSING),
    Fault("stop PostgreSQL for seconds", _stopped("server")),
    Fault("staging's disk full", _fill, _make_room, place=_disk("staging", 16), why_not=disks.why_none),
    Fault("scratch disk full", _fill, _make_room, place=_disk("scratch", 16), why_not=disks.why_none),
    Fault("PostgreSQL's disk full", _fill, _make_room, place=_disk("home", 256), why_not=disks.why_none),
    Fault("staging read-only", _close, _reopen, place=_disk("staging", 16), why_not=disks.why_none),
    Fault("warehouse cut off", _network("reset", (1, 6)), place=_far_warehouse),
    Fault("warehouse does not answer", _network("hang", (1, 6)), place=_far_warehouse),
    Fault("S3 resets", _network("reset", (1, 8)), place=_object_store),
    Fault("S3 answers 503", _network("error 503", (1, 8)), place=_object_store),
    Fault("S3 hangs", _network("hang", (1, 8)), place=_object_store),
    Fault("S3 is slow", _network("slow", (5, 10)), place=_object_store),
    Fault(
        "kill -9, with the clock days off",
        _one("runner", signal.SIGKILL),
        place=_beside_its_server,
        first=_clock,
        why_not=_no_clock,
    ),
    Fault("the same days twice at once", _another(ALL_DAYS), days=TWICE, stages=EARLY),
    Fault("the same, and kill -9 one", _another_and_kill_one(ALL_DAYS), days=TWICE, stages=EARLY),
    Fault("overlapping days at once", _another(OVERLAPPING[1]), days=OVERLAPPING, stages=EARLY),
    Fault("overlapping, and kill -9 one", _another_and_kill_one(OVERLAPPING[1]), days=OVERLAPPING, stages=EARLY),
)
