"""Checks pages of docs/: commands must exist, queries must run, and quoted messages must be real."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from capsfusion_tasks.cli import app

REPOSITORY = Path(__file__).resolve().parents[2]
OPERATIONS, SIZING, TROUBLESHOOTING = (
    (REPOSITORY / "docs" / name).read_text() for name in ("operations.md", "sizing.md", "troubleshooting.md")
)
PAGES = "\n".join((OPERATIONS, SIZING, TROUBLESHOOTING))
SPANS = re.findall(r"`([^`\n]+)`", PAGES)
COMMANDS = [line.strip() for line in PAGES.splitlines() if line.startswith("    ")] + SPANS

# Quotes that are not in our code: messages of Airflow, PostgreSQL, CUDA, S3 and the kernel.
FOREIGN = {
    "AccessDenied",
    "No space left on device",
    "CUDA out of memory",
    "existing: replace",
    "cannot be read as Parquet",
}


def test_its_queries_run(warehouse_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPSFUSION_WAREHOUSE_URL", warehouse_url)
    queries = [shlex.split(each)[2] for each in COMMANDS if each.startswith("capsfusion sql ")]
    assert len(queries) >= 8
    for query in queries:
        done = CliRunner().invoke(app, ["sql", query])
        assert done.exit_code == 0, f"{query}: {done.output}{done.exception}"


def test_its_capsfusion_commands_and_options_are_there() -> None:
    commands = {tuple(shlex.split(each)[1:]) for each in COMMANDS if each.startswith("capsfusion ")}
    commands |= {tuple(shlex.split(each)[5:]) for each in COMMANDS if "exec cpu-worker capsfusion " in each}
    assert len(commands) >= 10
    for words in commands:
        names = [word for word in words if re.fullmatch(r"[a-z-]+", word)]
        command = names[:2] if names[0] == "db" else names[:1]
        done = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
        assert done.exit_code == 0, words
        assert all(word in done.output for word in words if word.startswith("--")), words


def test_its_services_and_volumes_are_those_of_the_compose_file() -> None:
    compose = yaml.safe_load((REPOSITORY / "docker-compose.yaml").read_text())
    verbs = r"docker compose (?:exec(?: -T)?|run --rm|up -d|stop|logs) ((?:[a-z][a-z-]*[ `]?)+)"
    named = {name for each in COMMANDS for found in re.findall(verbs, each) for name in found.split()[:1]}
    assert {"airflow-scheduler", "cpu-worker", "demo", "gpu-worker", "postgres"} <= named
    assert named <= set(compose["services"])
    table = OPERATIONS.split("| service | does |")[1].split("\n\n")[0]
    assert set(re.findall(r"`([a-z]+(?:-[a-z]+)*)`", "".join(row.split("|")[1] for row in table.splitlines()[2:]))) == (
        set(compose["services"]) - {"demo"}
    )
    listed = OPERATIONS.split("Everything written lies in named volumes: ")[1].split(".\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == set(compose["volumes"]) - {"auth"}


def test_its_steps_for_a_gpu_machine_leave_what_the_compose_file_requires(tmp_path: Path) -> None:
    steps = OPERATIONS.split("### How do I add a GPU machine?")[1].split("\n### ")[0]
    for name in re.findall(r"docker-compose[\w.]*\.yaml", steps):
        assert (REPOSITORY / name).exists()
    subprocess.run([REPOSITORY / "docker" / "make-env.sh", tmp_path / ".env"], check=True, capture_output=True)
    (copied,) = re.findall(r"^ +(grep .*) \| ssh", steps, flags=re.MULTILINE)
    told = re.findall(r"^ +(?:echo )?(\w+=\S+)", steps, flags=re.MULTILINE)
    (tmp_path / ".env").write_text("\n".join([(tmp_path / ".env").read_text(), *told]))
    left = subprocess.run(["sh", "-c", copied], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    required = set(re.findall(r"\$\{(\w+):\?", (REPOSITORY / "docker-compose.worker.yaml").read_text()))
    assert {"MAIN_ADDRESS", "WORKER_ADDRESS", "FERNET_KEY"} <= required
    assert required <= set(re.findall(r"^(\w+)=", left, flags=re.MULTILINE))
    assert "ADMIN_PASSWORD=" not in left


def test_each_message_of_the_troubleshooting_page_is_one_of_the_code() -> None:
    said = _messages()
    rows = [
        row.split("|")[1]
        for row in TROUBLESHOOTING.splitlines()
        if row.startswith("| ") and not row.startswith("| ---")
    ]
    asked = [part.strip() for row in rows for span in re.findall(r"`([^`]+)`", row) for part in span.split("…")]
    asked = [re.sub(r"\d+", "…", part) for part in asked if len(part) > 9 and part not in FOREIGN]
    assert len(asked) > 15
    missing = [part for part in asked if not any(part in message for message in said)]
    assert not missing


def _messages() -> list[str]:
    """All strings in the code, with … in place of inserted values."""
    found = []
    for folder in ("capsfusion_tasks", "dags", "plugins"):
        for file in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.append(re.sub(r"%\w|\d+", "…", node.value))
                elif isinstance(node, ast.JoinedStr):
                    parts = (str(each.value) if isinstance(each, ast.Constant) else "…" for each in node.values)
                    found.append(re.sub(r"\d+", "…", "".join(parts)))
    found += (file.read_text() for file in (REPOSITORY / "capsfusion_tasks").rglob("*.sql"))
    return found


def test_its_table_of_sizes_is_its_formula() -> None:
    rows = re.findall(
        r"^\| ([\d.]+), [^|]+\| ([\d,.]+) days \| ([\d,.]+) days \| ([\d,.]+) days \| ([\d,]+) \|", SIZING, re.M
    )
    assert [row[0] for row in rows] == ["1.04", "40", "126", "192"]
    for rate, *found, hours in rows:
        seconds = 113e6 / float(rate)
        for gpus, each in zip((1, 8, 64), found, strict=True):
            assert float(each.replace(",", "")) == pytest.approx(seconds / gpus / 86400, rel=0.02)
        assert float(hours.replace(",", "")) == pytest.approx(seconds / 3600, rel=0.005)
