"""Runs docker-compose.yaml in a real container engine: the demo with Celery, and a GPU worker killed while it fuses.

Takes ten minutes or more, so it runs only with COMPOSE_TESTS=1. Needs a container engine and both images
(``docker compose build``).
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
from collections.abc import Iterator
from datetime import date

import pytest

from tests.deploy.stack import REPOSITORY, Stack, compose_command, wait_until

pytestmark = pytest.mark.timeout(3600)

FIRST = date(2026, 11, 10)
DAYS = [date(2026, 11, day) for day in (10, 11, 12)]
CAPTIONS = """
    select pair_id::text, fusion_id, laion_2b, laion_coco, capsfusion, '' as reasons from fused_captions
    union all
    select pair_id::text, fusion_id, laion_2b, laion_coco, capsfusion, reasons::text from rejected_captions
    order by 1, 2
"""
SETTINGS = """
CAPSFUSION_CHUNK_ROWS=8
CAPSFUSION_UNIT_TOKENS=2300
CPU_WORKER_CONCURRENCY=2
"""
# With this setting, Airflow notices a dead task minutes earlier.
OVERRIDE = """
services:
  airflow-scheduler:
    environment:
      AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT: "60"
"""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not os.environ.get("COMPOSE_TESTS"):
        pytest.skip("takes ten minutes and more: asked for with COMPOSE_TESTS=1")
    command = compose_command()
    if command is None:
        pytest.skip("no container engine answers, or there is no docker compose")
    folder = tmp_path_factory.mktemp("stack")
    env_file, override = folder / "env", folder / "override.yaml"
    subprocess.run([REPOSITORY / "docker" / "make-env.sh", env_file], check=True)
    with env_file.open("a") as file:
        file.write(f"{SETTINGS}AIRFLOW_PORT={_free_port()}\n")
    override.write_text(OVERRIDE)
    stack = Stack(command, f"capsfusion-test-{secrets.token_hex(3)}", env_file, override)
    try:
        stack.compose("up", "-d", "--no-build")
        yield stack
    finally:
        stack.compose("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def demo(stack: Stack) -> str:
    return stack.compose("run", "--rm", "-T", "demo")


def test_the_demo_fuses_through_the_workers(stack: Stack, demo: str) -> None:
    assert "300 pairs in the sample" in demo
    (counts,) = stack.query("select sum(rows_in) as rows, sum(accepted + rejected) as loaded from work_units")
    assert counts == {"rows": "300", "loaded": "300"}


def test_fuse_tasks_run_on_the_gpu_worker_and_nothing_else_does(stack: Stack, demo: str) -> None:
    gpu_host, cpu_host = (
        stack.compose("exec", "-T", service, "hostname").strip() for service in ("gpu-worker", "cpu-worker")
    )
    hosts: dict[str, set[str]] = {}
    for task in (task for day in DAYS for task in stack.tasks(day) if task["state"] == "success"):
        hosts.setdefault("fuse" if task["task_id"] == "fuse" else "other", set()).add(task["hostname"])
        assert task["queue"] == ("gpu" if task["task_id"] == "fuse" else "default")
    assert hosts == {"fuse": {gpu_host}, "other": {cpu_host}}


def test_torch_is_on_the_gpu_worker_only(stack: Stack) -> None:
    look = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
    found = {
        service: stack.compose("exec", "-T", service, "python", "-c", look).strip()
        for service in ("gpu-worker", "cpu-worker", "airflow-apiserver")
    }
    assert found == {"gpu-worker": "True", "cpu-worker": "False", "airflow-apiserver": "False"}


def test_captions_are_those_of_capsfusion_run(stack: Stack, demo: str) -> None:
    alone = [
        "-e",
        "CAPSFUSION_WAREHOUSE_URL=",
        "-e",
        "CAPSFUSION_STAGING=/tmp/alone/staging",
        "-e",
        "CAPSFUSION_HOME=/tmp/alone",
    ]
    script = (
        "capsfusion run --start 2026-11-10 --end 2026-11-13 > /tmp/run.log 2>&1 || { cat /tmp/run.log >&2; exit 1; }; "
        f'capsfusion sql "{CAPTIONS}" --format json'
    )
    want = stack.compose("run", "--rm", "-T", "--no-deps", *alone, "gpu-worker", "bash", "-c", script)
    got = stack.compose("exec", "-T", "cpu-worker", "capsfusion", "sql", CAPTIONS, "--format", "json")
    assert len(want) > 100_000
    assert got == want


def test_a_gpu_worker_that_is_killed_in_the_middle_loses_nothing(stack: Stack, demo: str) -> None:
    one_beam = "where fusion_id in (select fusion_id from fusions where num_beams = 1)"
    units = f"select unit_id, state, tries, rows_in, accepted, rejected from work_units {one_beam}"
    stack.backfill(FIRST, num_beams=1)
    wait_until("a unit is being fused", lambda: any(unit["state"] == "fusing" for unit in stack.query(units)))
    stack.compose("kill", "gpu-worker")
    (broken,) = [unit for unit in stack.query(units) if unit["state"] == "fusing"]
    stack.compose("up", "-d", "--no-build", "gpu-worker")
    wait_until("the run has ended", lambda: stack.run_state(FIRST) in ("success", "failed"))
    assert stack.run_state(FIRST) == "success"
    after = {unit["unit_id"]: unit for unit in stack.query(units)}
    assert {unit["state"] for unit in after.values()} == {"loaded"}
    assert int(after[broken["unit_id"]]["tries"]) == 2
    (rows,) = stack.query(
        f"select (select count(*) from fused_captions {one_beam}) + (select count(*) from rejected_captions {one_beam})"
        " as loaded, (select sum(rows_in) from work_units where interval_start = '2026-11-10' and fusion_id in"
        " (select fusion_id from fusions where num_beams = 3)) as in_the_demo"
    )
    assert int(rows["loaded"]) > 50
    assert rows["loaded"] == rows["in_the_demo"], "the same pairs as with three beams"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
