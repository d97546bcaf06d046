"""Injects random faults into a running Airflow: ``python -m tests.faults.airflow --minutes 30``.

Backfills of the sample's three days run in a loop, sometimes with ``capsfusion run`` at the same time. Processes are
killed and suspended, and the disk of the staging area fills up. Killed services are restarted seconds later, as a
service manager would do. After the last fault, Airflow finishes its retries, and a last backfill of all days runs. The
caption tables must then equal those of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random, SystemRandom

import psutil

from capsfusion_tasks.demo.airflow_api import AirflowApi, AirflowApiError
from capsfusion_tasks.demo.airflow_server import LocalAirflow, local_airflow
from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.warehouse.embedded import embedded_postgres
from tests.faults import disks
from tests.faults.result import Difference, difference
from tests.faults.trial import check
from tests.faults.workload import DAYS, Run, Site, Workload

COMPONENTS = ("scheduler", "dag-processor", "api-server", "triggerer")
PATIENCE = 1800  # seconds for Airflow to finish its runs after the last fault
FIRST, LAST = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (DAYS[0], DAYS[2]))


@dataclass
class Service:
    """A running Airflow with its databases. Restarts the components that it kills, as a service manager does."""

    airflow: LocalAirflow
    site: Site  # the site's PostgreSQL has only the warehouse; Airflow's database is on another server
    random: Random
    beside: list[Run] = field(default_factory=list)  # commands `capsfusion run`, which run beside Airflow
    restarted: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def api(self) -> AirflowApi:
        return self.airflow.api

    def processes(self) -> list[psutil.Process]:
        """Airflow's processes except their parent. Finds them by session, even if their parent has died."""
        sessions = {self.airflow.process.pid, *(each.pid for each in self.restarted)}
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.Error):
                if os.getsid(process.pid) in sessions:
                    found |= {process, *process.children(recursive=True)}
        return [process for process in found if process.pid != self.airflow.process.pid]

    def with_title(self, *words: str) -> list[psutil.Process]:
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if any(word in title for word in words):
                    found.append(process)
        return found

    def kill(self, processes: list[psutil.Process], number: signal.Signals = signal.SIGKILL) -> bool:
        """Send the signal to one process, chosen at random. Returns False if there is no process."""
        if not processes:
            return False
        with suppress(psutil.NoSuchProcess):
            self.random.choice(processes).send_signal(number)
        return True

    def kill_component(self, name: str) -> bool:
        """Kill a component with all of its children, as containers and service managers do, and restart it.

        LocalExecutor's idle processes inherit the scheduler's database connection. If they stayed alive, the locks of
        the scheduler's last transaction would stay, and the next scheduler would skip the locked runs for ever.
        """
        found = self.with_title(f"airflow {name}", f"airflow {name.replace('-', '_')}")
        family = set(found)
        for process in found:
            with suppress(psutil.NoSuchProcess):
                family.update(process.children(recursive=True))
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(self.random.uniform(1, 5))
        self.start_component(name)
        return bool(found)

    def start_component(self, name: str) -> None:
        with open(self.airflow.folder / f"{name}.log", "ab") as log:
            self.restarted.append(
                subprocess.Popen(
                    [sys.executable, "-m", "airflow", name],
                    env=psutil.Process(self.airflow.process.pid).environ(),
                    cwd=self.airflow.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def end(self) -> None:
        for process in self.processes() if self.restarted else []:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def keep_busy(self) -> None:
        """Start a backfill of all days if none is running, and sometimes `capsfusion run` at the same time.

        Most backfills replace all captions. Otherwise there would be no work after the first backfill.
        """
        with suppress(NotReadyError, AirflowApiError):  # Airflow may be down
            if not self.api.close_backfills():
                existing = {"existing": self.random.choices(("replace", "skip"), (3, 1))[0]}
                self.api.backfill(FIRST, LAST, reprocess="completed", max_active_runs=3, conf=existing)
        if all(run.process.poll() is not None for run in self.beside) and self.random.random() < 0.3:
            first = self.random.randrange(3)
            self.beside.append(self.site.run(DAYS[first], DAYS[self.random.randrange(first + 1, 4)]))

    def wait_for_runs(self) -> str | None:
        """Wait until all runs have ended. Returns None, or, after a timeout, a text that says what has not ended."""
        deadline = time.monotonic() + PATIENCE
        left = "Airflow does not answer"
        while time.monotonic() < deadline:
            with suppress(NotReadyError, AirflowApiError):
                runs = self.api.runs(state=["queued", "running"])
                if not runs and not self.api.close_backfills():
                    return None
                left = f"{len(runs)} runs have not ended"
            time.sleep(2)
        return f"{left} {PATIENCE} s after the last fault"

    def backfill(self) -> list[str]:
        """Backfill all days for the last time. Returns the problems of this backfill's runs."""
        self.api.backfill(FIRST, LAST, reprocess="completed", max_active_runs=3)
        time.sleep(5)
        if why := self.wait_for_runs():
            return [f"the last backfill: {why}"]
        return [f"{run['dag_run_id']} is {run['state']}" for run in self.api.runs() if run["state"] != "success"]


Strike = Callable[[Service], bool]


def _stop(words: tuple[str, ...]) -> Strike:
    def strike(service: Service) -> bool:
        found = service.with_title(*words)
        for number in (signal.SIGSTOP, signal.SIGCONT):
            for process in found:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(number)
            if number is signal.SIGSTOP:
                time.sleep(service.random.uniform(1, 10) if found else 0)
        return bool(found)

    return strike


def _kill_server(service: Service) -> bool:
    found = service.site.server()
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    time.sleep(service.random.uniform(0, 5))
    # Restarts the server. The server keeps running after this block, because ``running`` still uses it.
    with embedded_postgres(service.site.home):
        return bool(found)


def _second_scheduler(service: Service) -> bool:
    """Start a second scheduler. The next fault that kills the scheduler kills both, and restarts only one."""
    if len(service.with_title("airflow scheduler")) > 2:  # one scheduler has two processes
        return False
    service.start_component("scheduler")
    return True


def _fill(service: Service) -> bool:
    disks.fill(service.site.disk)
    time.sleep(service.random.uniform(5, 20))
    disks.make_room(service.site.disk)
    return True


def _kill_beside(service: Service) -> bool:
    return service.kill([process for run in service.beside for process in run.processes("runner")])


STRIKES: dict[str, Strike] = {
    "kill -9 a task": lambda service: service.kill(service.with_title("airflow worker -- 0")),
    "kill a task": lambda service: service.kill(service.with_title("airflow worker -- 0"), signal.SIGTERM),
    "kill -9 a task's supervisor": lambda service: service.kill(service.with_title("airflow supervisor")),
    "kill -9 torchrun": lambda service: service.kill(service.with_title("capsfusion_tasks.fusion.torchrun")),
    "kill -9 a rank": lambda service: service.kill(service.with_title("-u -m capsfusion_tasks.fusion.worker")),
    "kill -9 the run beside": _kill_beside,
    **{f"kill -9 the {name}": lambda service, name=name: service.kill_component(name) for name in COMPONENTS},
    "a second scheduler": _second_scheduler,
    "kill -9 the warehouse": _kill_server,
    "kill -9 a backend of it": lambda service: service.kill(service.site.server()[1:]),
    "stop the scheduler": _stop(("airflow scheduler",)),
    "stop a rank": _stop(("capsfusion_tasks.fusion.worker",)),
    "staging's disk full": _fill,
}


@contextmanager
def running(folder: Path, workload: Workload, random: Random) -> Iterator[Service]:
    with ExitStack() as stack:
        disk = stack.enter_context(disks.disk(folder / "disk", 64))
        site = stack.enter_context(workload.site("service", CAPSFUSION_STAGING=str(disk / "staging")))
        site.disk = disk
        server = stack.enter_context(embedded_postgres(site.home))
        site.changes["CAPSFUSION_WAREHOUSE_URL"] = server.url().render_as_string(hide_password=False)
        own = stack.enter_context(embedded_postgres(folder / "own", ["airflow"]))
        ours = {name: value for name, value in site.environment.items() if os.environ.get(name) != value}
        faster = {
            # A task without a heartbeat for this many seconds counts as lost. Airflow's default: 300.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_SEC": "10",
        }
        airflow = stack.enter_context(
            local_airflow(folder, own.url("airflow", "psycopg2").render_as_string(), {**ours, **faster}, say=print)
        )
        service = Service(airflow, site, random)
        stack.callback(service.end)
        yield service


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.airflow", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="inject faults for this many minutes (default: 30)")
    parser.add_argument(
        "--seed", type=int, default=SystemRandom().randrange(10**6), help="random seed (default: a new one)"
    )
    arguments = parser.parse_args()
    if why := disks.why_none():
        sys.exit(why)
    print(f"--seed {arguments.seed}: random faults for {arguments.minutes:g} minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="capsfusion-faults-") as temporary:
        folder = Path(temporary)
        workload = Workload.prepare(folder)
        print(f"unbroken: {len(workload.expected.rows)} rows", flush=True)
        with running(folder, workload, Random(arguments.seed)) as service:
            found = _break(service, arguments.minutes)
    print(f"lost {found.lost}, doubled {found.doubled}, changed {found.changed}")
    print("\n".join(f"    {problem}" for problem in found.problems))
    return 1 if found else 0


def _break(service: Service, minutes: float) -> Difference:
    struck = Counter[str]()
    deadline = time.monotonic() + 60 * minutes
    while time.monotonic() < deadline:
        service.keep_busy()
        time.sleep(service.random.uniform(3, 15))
        # Try faults in random order until one hits a process. Otherwise, short-lived processes would rarely be hit.
        for name in service.random.sample(list(STRIKES), len(STRIKES)):
            if STRIKES[name](service):
                struck[name] += 1
                print(f"{datetime.now(UTC):%H:%M:%S} {name}", flush=True)
                break
    print("no more faults; waiting until Airflow finishes its runs", flush=True)
    began = time.monotonic()
    for run in service.beside:
        run.wait(PATIENCE)
    problems = [why] if (why := service.wait_for_runs()) else []
    problems += service.backfill()
    print(f"\n{'fault':32} {'times':>6}")
    print("\n".join(f"{name:32} {times:6}" for name, times in struck.items()))
    print(f"{time.monotonic() - began:.0f} s from the last fault to the end of the retry", flush=True)
    problems += check(service.site)
    found = difference(service.site.table(), service.site.workload.expected, replacing=True)
    return Difference(found.lost, found.doubled, found.changed, (*problems, *found.problems))


if __name__ == "__main__":
    sys.exit(main())
