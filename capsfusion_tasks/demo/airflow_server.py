"""Runs a local Airflow, with this repository's DAGs, until a ``with`` block ends."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.demo.airflow_processes import end_on_sigint, end_orphans, end_session
from capsfusion_tasks.errors import InputError, NotReadyError

REPOSITORY = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"  # listen on this machine only, because the simple auth manager does not protect Airflow
USER = "admin"
PARALLELISM = 4  # maximum number of task processes at the same time; each imports pyarrow, which takes memory
START_SECONDS = 600
PID_FILE, LOG_FILE = "airflow.pid", "airflow.log"  # in Airflow's folder
SAY_SECONDS = 5.0

Say = Callable[[str], None]


@dataclass(frozen=True)
class LocalAirflow:
    """A running, healthy Airflow."""

    api: AirflowApi
    password: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def log(self) -> Path:
        return self.folder / LOG_FILE

    def check(self) -> None:
        """Raise ``NotReadyError`` if Airflow has ended."""
        if self.process.poll() is not None:
            raise NotReadyError(f"Airflow has ended with exit code {self.process.returncode}: see its log {self.log}")


@contextmanager
def local_airflow(
    home: Path,
    database_url: str,
    environment: Mapping[str, str],
    *,
    say: Say,
    port: int | None = None,
    scheduled: bool = False,
    users: str = f"{USER}:admin",
    start_database: Callable[[], object] = lambda: None,
) -> Iterator[LocalAirflow]:
    """Run Airflow with its state in ``home``/airflow. Airflow ends when the block ends.

    ``environment``: variables for Airflow and its tasks, besides those of this process. ``port``: port of the UI; None:
    any free port. ``scheduled``: start daily runs, not only requested runs. ``users``: value of Airflow's option
    ``simple_auth_manager_users``. Airflow generates the passwords of all users except ``USER``. ``start_database``:
    called while Airflow is being imported; afterwards, the server of ``database_url`` must run.
    """
    _check_installed()
    folder = home / "airflow"
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(_exclusive(folder))
        end_orphans(folder / PID_FILE, say)
        password = _password(folder)
        free_port, *log_ports = _free_ports(3)
        ui_port = _ui_port(port, free_port, say)
        api = AirflowApi(f"http://{HOST}:{ui_port}", USER, password)
        configuration = _configuration(folder, database_url, ui_port, log_ports, scheduled, users)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        started = datetime.now(UTC)
        with open(folder / LOG_FILE, "wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "capsfusion_tasks.demo.airflow_components"],
                env={**inherited, **configuration, **environment, "PATH": path},
                cwd=folder,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C reaches only this process, which then stops Airflow properly
                preexec_fn=end_on_sigint,
            )
        stack.callback(end_session, process.pid)
        (folder / PID_FILE).write_text(str(process.pid))
        airflow = LocalAirflow(api, password, folder, process)
        start_database()
        # The pipe is broken if Airflow has ended. Ignore this here, because _wait_until_healthy raises a clearer error.
        with suppress(BrokenPipeError), cast(IO[bytes], process.stdin) as go:
            go.write(b"the database server runs\n")
        _wait_until_healthy(airflow, started, say)
        yield airflow


def _configuration(
    folder: Path, database_url: str, port: int, log_ports: list[int], scheduled: bool, users: str
) -> dict[str, str]:
    url = f"http://{HOST}:{port}"
    sections: dict[str, dict[str, object]] = {
        "core": {
            "dags_folder": REPOSITORY / "dags",
            "plugins_folder": REPOSITORY / "plugins",
            "load_examples": False,
            "executor": "LocalExecutor",
            "parallelism": PARALLELISM,
            "dags_are_paused_at_creation": False,
            "simple_auth_manager_users": users,
            "execution_api_server_url": f"{url}/execution/",
        },
        "api": {"host": HOST, "port": port, "base_url": url},
        "database": {
            "sql_alchemy_conn": database_url,
            # Do not test connections before each use: the tests would take a tenth of Airflow's CPU time. They are not
            # needed, because PostgreSQL runs on this machine as long as Airflow does.
            "sql_alchemy_pool_pre_ping": False,
            # The components need not check whether the database is migrated, because they start after its migration.
            "check_migrations": False,
        },
        "scheduler": {
            "use_job_schedule": scheduled,
            # Recover the tasks of a killed Airflow within seconds, not minutes.
            "orphaned_tasks_check_interval": 20,
            # Pause between two loops of the scheduler. A shorter pause starts tasks sooner, but takes CPU time from
            # running tasks. Airflow's default is 1 s.
            "scheduler_idle_sleep_time": 0.5,
        },
        # A skipped task ends only at its next heartbeat, and a day's run skips two tasks. With Airflow's default of 5 s
        # between heartbeats, these tasks would end later.
        "workers": {"min_heartbeat_interval": 1},
        # Airflow parses a changed DAG file at once. It need not parse unchanged files every 30 s.
        "dag_processor": {"min_file_process_interval": 300},
        "logging": {"worker_log_server_port": log_ports[0], "trigger_log_server_port": log_ports[1]},
        "usage_data_collection": {"enabled": False},
    }
    variables = {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for section, options in sections.items()
        for option, value in options.items()
    }
    return {**variables, "AIRFLOW_HOME": str(folder), "NO_COLOR": "1"}


def _check_installed() -> None:
    if importlib.util.find_spec("airflow") is None:
        raise InputError("Airflow is not installed: run `make install`, or pip install 'capsfusion-pipeline[airflow]'")
    if not (REPOSITORY / "dags" / "capsfusion.py").is_file():
        raise InputError(f"no DAG in {REPOSITORY / 'dags'}: run this from a clone of the repository (`make demo`)")


@contextmanager
def _exclusive(folder: Path) -> Iterator[None]:
    """Lock ``folder`` during the block, because two Airflows in one folder would start each other's tasks."""
    with open(folder / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"another `make demo` or `make up` is using {folder}: end it (Ctrl-C), or change CAPSFUSION_HOME"
            ) from None
        yield


def _password(folder: Path) -> str:
    """The password of ``USER``. The first start writes a new password to the file that Airflow reads."""
    file = folder / "simple_auth_manager_passwords.json.generated"
    if not file.exists():
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
            json.dump({USER: secrets.token_urlsafe(9)}, stream)
    return str(json.loads(file.read_text())[USER])


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _ui_port(wanted: int | None, free: int, say: Say) -> int:
    """Return the port ``wanted``, or ``free`` if ``wanted`` is None or in use."""
    if wanted is None or _is_free(wanted):
        return wanted or free
    say(f"port {wanted} is in use, so the UI is on port {free} instead")
    return free


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _wait_until_healthy(airflow: LocalAirflow, started: datetime, say: Say) -> None:
    """Wait until all components are healthy and Airflow has parsed the DAG after ``started``.

    A thread asks Airflow, because an answer can take longer than the time between two lines for the user.
    """
    began = said = time.monotonic()
    waiting, told = "waiting for Airflow's API server", ""
    asking = ThreadPoolExecutor(1)
    try:
        answer = asking.submit(_not_ready, airflow.api, started)
        while (now := time.monotonic()) < began + START_SECONDS:
            airflow.check()
            if answer.done():
                if (missing := answer.result()) is None:
                    return
                waiting = missing
                answer = asking.submit(_not_ready, airflow.api, started)
            if waiting != told or now - said >= SAY_SECONDS:
                say(f"{now - began:4.0f} s  {waiting}")
                said, told = now, waiting
            time.sleep(0.3)
    finally:
        asking.shutdown(wait=False, cancel_futures=True)
    raise NotReadyError(f"Airflow was not healthy after {START_SECONDS} s ({waiting}): see its log {airflow.log}")


def _not_ready(api: AirflowApi, started: datetime) -> str | None:
    """A message that says which part of Airflow is not ready yet. None if Airflow is ready."""
    try:
        health = api.health()
        api.prepare_task_api()
    except NotReadyError:
        return "waiting for Airflow's API server"
    if missing := [part for part in ("metadatabase", "scheduler", "dag_processor") if health.get(part) != "healthy"]:
        return f"waiting for Airflow's {' and '.join(missing)}"
    if errors := api.import_errors():
        raise InputError(f"the DAG cannot be imported: {errors[0].strip().splitlines()[-1]}")
    parsed = api.dag_parsed_at()
    return "waiting for Airflow to parse the DAG" if parsed is None or parsed < started else None
