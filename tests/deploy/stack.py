"""Starts the stack of docker-compose.yaml in a real container engine, for tests."""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from capsfusion_tasks.demo.airflow_api import AirflowApi
from capsfusion_tasks.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 1200  # time limit in seconds, long enough for a busy machine


def setting_names() -> set[str]:
    """The environment variables of all settings, including those of nested groups."""
    names = set()
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            names |= {f"CAPSFUSION_{name}__{each}".upper() for each in group.model_fields}
        else:
            names.add(f"CAPSFUSION_{name}".upper())
    return names


def compose_command() -> list[str] | None:
    """The Compose command: ``docker compose`` or ``docker-compose``. None if neither works or no engine answers."""
    if shutil.which("docker") is None or not _succeeds(["docker", "info"]):
        return None
    return next((each for each in (["docker", "compose"], ["docker-compose"]) if _succeeds([*each, "version"])), None)


def _succeeds(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@dataclass(frozen=True)
class Stack:
    """A docker compose project with its own secrets and settings."""

    command: list[str]
    project: str
    env_file: Path
    override: Path

    def compose(self, *arguments: str, seconds: float = SECONDS) -> str:
        files = ["-f", "docker-compose.yaml", "-f", str(self.override)]
        done = subprocess.run(
            [*self.command, "-p", self.project, "--env-file", str(self.env_file), *files, *arguments],
            cwd=REPOSITORY,
            env={name: value for name, value in os.environ.items() if not name.startswith(("CAPSFUSION_", "PIP_"))},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    @property
    def variables(self) -> dict[str, str]:
        lines = (line for line in self.env_file.read_text().splitlines() if line and not line.startswith("#"))
        return dict(line.split("=", 1) for line in lines)

    @property
    def api(self) -> AirflowApi:
        return AirflowApi(
            f"http://127.0.0.1:{self.variables['AIRFLOW_PORT']}", "admin", self.variables["ADMIN_PASSWORD"]
        )

    def query(self, statement: str) -> list[dict[str, str]]:
        text = self.compose("exec", "-T", "cpu-worker", "capsfusion", "sql", statement, "--format", "csv")
        return list(csv.DictReader(io.StringIO(text)))

    def backfill(self, day: date, **conf: Any) -> None:
        wait_until("earlier backfills end", lambda: not self.api.close_backfills())
        moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        self.api.backfill(moment, moment, reprocess="completed", max_active_runs=1, conf=conf)

    def tasks(self, day: date) -> list[dict[str, Any]]:
        return self.api.task_instances(logical_date_gte=f"{day}T00:00:00Z", logical_date_lte=f"{day}T00:00:00Z")

    def run_state(self, day: date) -> str:
        (run,) = self.api.runs(logical_date_gte=f"{day}T00:00:00Z", logical_date_lte=f"{day}T00:00:00Z")
        return str(run["state"])


def wait_until(what: str, is_so: Callable[[], Any], seconds: float = SECONDS) -> Any:
    deadline = time.monotonic() + seconds
    while not (answer := is_so()):
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(2)
    return answer
