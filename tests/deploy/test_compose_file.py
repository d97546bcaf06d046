"""The compose files, checked as files, without starting anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.stack import setting_names

REPOSITORY = Path(__file__).resolve().parents[2]
COMPOSE = REPOSITORY / "docker-compose.yaml"
PORTS = REPOSITORY / "docker-compose.ports.yaml"
WORKER = REPOSITORY / "docker-compose.worker.yaml"
MAKE_ENV = REPOSITORY / "docker" / "make-env.sh"

AIRFLOW_ONLY = {"CAPSFUSION_ALERT_CONN_ID", "CAPSFUSION_AWS_CONN_ID"}  # read by plugins/, not by Settings
SETTINGS = setting_names()
VARIABLE = re.compile(r"\$\{(\w+)([^}]*)\}")
ONE_OFF = {"airflow-init", "demo"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose["services"]
    return found


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    subprocess.run([MAKE_ENV, tmp_path / "env"], check=True, capture_output=True)
    return tmp_path / "env"


def variables(env_file: Path) -> dict[str, str]:
    lines = (line for line in env_file.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def test_no_port_is_open_to_other_hosts(services: dict[str, dict[str, Any]]) -> None:
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports, "the UI has no port"
    assert all(str(port).startswith("127.0.0.1:") for port in ports), ports
    assert not any(service.get("network_mode") for service in services.values())


def test_each_long_running_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    assert {name for name, service in services.items() if "healthcheck" not in service} == ONE_OFF
    assert all(service["restart"] == "unless-stopped" for name, service in services.items() if name not in ONE_OFF)


def test_airflow_starts_after_both_databases_are_migrated(services: dict[str, dict[str, Any]]) -> None:
    first = {"postgres", "redis", "airflow-init"}
    for name, service in services.items():
        if name not in first:
            assert service["depends_on"]["airflow-init"] == {"condition": "service_completed_successfully"}, name
    waited_for = services["airflow-init"]["depends_on"]
    assert {name: each["condition"] for name, each in waited_for.items()} == dict.fromkeys(
        ("postgres", "redis"), "service_healthy"
    )


def test_each_setting_reaches_the_containers_and_no_unknown_one_does(
    services: dict[str, dict[str, Any]],
) -> None:
    for name, service in services.items():
        if "airflow" in service["image"] or "gpu" in service["image"]:
            given = {each for each in service["environment"] if each.startswith("CAPSFUSION_")}
            assert given == SETTINGS | AIRFLOW_ONLY, name
    assert {each for each, _ in VARIABLE.findall(COMPOSE.read_text()) if each.startswith("CAPSFUSION_")} <= (
        SETTINGS | AIRFLOW_ONLY
    )


def test_each_default_folder_lies_in_a_volume_that_tasks_can_write(
    compose: dict[str, Any], services: dict[str, dict[str, Any]]
) -> None:
    dockerfile = (REPOSITORY / "docker" / "Dockerfile").read_text()
    made = re.search(r"^RUN mkdir -p (.*) \\\n && chown -R 50000:0 .* /data ", dockerfile, flags=re.MULTILINE)
    assert made, "a new volume gets the owner of the image's folder"
    for name in ("cpu-worker", "gpu-worker", "airflow-scheduler"):
        mounted = dict(reversed(volume.split(":")) for volume in services[name]["volumes"])
        defaults = {default for _, default in VARIABLE.findall(str(services[name]["environment"]))}
        folders = {default.removeprefix(":-") for default in defaults if default.startswith(":-/")}
        assert len(folders) >= 4
        for folder in folders:
            assert any(Path(folder).is_relative_to(target) for target in mounted), f"{name}: {folder} is in no volume"
        assert set(mounted.values()) <= set(compose["volumes"])
        assert set(mounted) <= set(made[1].split())


def test_variables_of_other_programs_reach_the_containers_if_env_sets_them(
    services: dict[str, dict[str, Any]],
) -> None:
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION"}
    keys |= _variables_to_set()
    for name in ("cpu-worker", "gpu-worker", "airflow-scheduler"):
        given = services[name]["environment"]
        assert keys <= set(given), name
        assert {key: given[key] for key in keys} == dict.fromkeys(keys), (
            name
            # With None, Compose passes the variable only if it is set. With "", it would pass an empty variable.
        )


def _variables_to_set() -> set[str]:
    """Variables of Airflow, OpenTelemetry and PyIceberg that the docs and the error messages ask to set."""
    files = [*(REPOSITORY / "docs").glob("*.md"), *REPOSITORY.glob("capsfusion_tasks/**/*.py")]
    text = "\n".join(file.read_text() for file in (*files, *REPOSITORY.glob("plugins/*.py")))
    found = set(re.findall(r"\b((?:AIRFLOW__[A-Z]+__|OTEL_|PYICEBERG_CATALOG__CAPSFUSION__)[A-Z_]*[A-Z])\b", text))
    assert {"AIRFLOW__CORE__MAX_MAP_LENGTH", "PYICEBERG_CATALOG__CAPSFUSION__URI"} <= found
    return found


def test_the_file_has_no_secret_and_no_default_for_one(services: dict[str, dict[str, Any]]) -> None:
    for name, service in services.items():
        for variable, value in service.get("environment", {}).items():
            # None means that the value comes from .env.
            literal = VARIABLE.sub("", "" if value is None else str(value))
            assert not re.search(r":[^/@:]+@", literal), f"{name}: {variable} has a password in it"
            if re.search(r"(PASSWORD|SECRET|_KEY|TOKEN|AUTH)$", variable):
                assert literal == "", f"{name}: {variable} is {value}"
    for file, error in ((COMPOSE, "run docker/make-env.sh"), (WORKER, "copy .env from the main machine")):
        for variable, rest in VARIABLE.findall(file.read_text()):
            if re.search(r"PASSWORD|SECRET|FERNET|_KEY", variable):
                assert rest in (f":?{error}", ":-"), f"{variable} has a default: {rest}"


def test_no_command_has_a_secret_among_its_arguments(services: dict[str, dict[str, Any]]) -> None:
    """All users can read the arguments of a process; only its user can read its environment."""
    for name, service in services.items():
        for part in (service.get("command", ""), service.get("healthcheck", {})):
            assert not re.search(r"(?<!\$)\$\{[^}]*(PASSWORD|SECRET|KEY|TOKEN)", str(part)), name
    for script in (REPOSITORY / "docker").glob("*.sh"):
        commands = re.sub(r"<<-?'?(\w+)'?\n.*?\n\1\n|\[ .*? \]", "", script.read_text(), flags=re.DOTALL)
        assert not re.search(r"(--?[\w-]+[ =]\S*|-v \w+=\"?)\$\{?\w*(PASSWORD|SECRET|_KEY)", commands), script.name


def test_nothing_runs_as_root(services: dict[str, dict[str, Any]]) -> None:
    users = re.findall(r"^(?:FROM|USER) .*", (REPOSITORY / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)
    last: dict[str, str] = {}
    for line in users:
        if found := re.fullmatch(r"FROM (\S+) AS (\w+)", line):
            stage = found[2]
            last[stage] = last.get(found[1], "")
        else:
            last[stage] = line.removeprefix("USER ")
    assert {last[stage] for stage in ("airflow", "gpu")} == {"50000:0"}
    for name, service in services.items():
        assert "user" not in service, name
        if service["image"].startswith("capsfusion-"):
            assert service["security_opt"] == ["no-new-privileges:true"], name
    # PostgreSQL's and Redis's entrypoints drop root. Redis's command is a shell, which must call the entrypoint.
    assert "exec $$(command -v docker-entrypoint.sh) redis-server" in str(services["redis"]["command"])


def test_only_the_gpu_worker_takes_the_queue_gpu_one_task_at_a_time(services: dict[str, dict[str, Any]]) -> None:
    commands = {name: str(each.get("command")) for name, each in services.items()}
    workers = {name: command for name, command in commands.items() if "celery worker" in command}
    assert set(workers) == {"cpu-worker", "gpu-worker"}
    assert "--queues default " in workers["cpu-worker"]
    assert workers["gpu-worker"].endswith("--queues gpu --concurrency 1")
    assert services["gpu-worker"]["image"].startswith("capsfusion-gpu:")
    assert services["cpu-worker"]["image"].startswith("capsfusion-airflow:")


def test_only_the_override_asks_for_a_gpu() -> None:
    assert "nvidia" not in yaml.safe_dump(yaml.safe_load(COMPOSE.read_text()))
    override = yaml.safe_load((REPOSITORY / "docker-compose.gpu.yaml").read_text())
    (device,) = override["services"]["gpu-worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}


def test_the_gpu_worker_of_another_machine_is_that_of_the_main_machine(services: dict[str, dict[str, Any]]) -> None:
    main, other = services["gpu-worker"], _other_worker()
    where = {"extra_hosts", "hostname", "ports", "env_file", "environment", "volumes"}
    assert {key: value for key, value in other.items() if key not in where} == {
        key: value for key, value in main.items() if key not in where | {"depends_on"}
    }
    # Without staging, which must be on S3, and the sample shards, which `pull` reads.
    assert set(main["volumes"]) - set(other["volumes"]) == {"staging:/data/staging", "samples:/data/samples"}
    assert set(other["volumes"]) < set(main["volumes"])


@pytest.mark.parametrize("all_are_set", [False, True])
def test_the_gpu_worker_of_another_machine_gets_the_same_values(
    services: dict[str, dict[str, Any]], env_file: Path, all_are_set: bool
) -> None:
    main = services["gpu-worker"]["environment"]
    env = {**variables(env_file), "CAPSFUSION_STAGING": "s3://bucket/staging"}
    if all_are_set:
        optional = {name for name, value in main.items() if value is None or ":-" in str(value)}
        assert len(optional) > 60
        env |= {name: f"the value of {name}" for name in optional}
    assert _other_worker()["env_file"] == ".env"
    other = {**env, **_resolved(_other_worker()["environment"], env)}
    want = {name: value for name, value in _resolved(main, env).items() if value}  # empty means the default
    for_other_services = {name for name in want if name.startswith(("AIRFLOW__SCHEDULER__", "AIRFLOW__CORE__SIMPLE_"))}
    assert len(for_other_services) == 4
    assert {name: other.get(name) for name in want.keys() - for_other_services} == {
        name: want[name] for name in want.keys() - for_other_services
    }


def test_the_ports_that_another_machine_needs_are_open_on_one_address(services: dict[str, dict[str, Any]]) -> None:
    opened = yaml.safe_load(PORTS.read_text())["services"]
    ports = {name: port for name, service in opened.items() for port in service["ports"]}
    assert len(ports) == sum(len(service["ports"]) for service in opened.values())
    address = "${MAIN_ADDRESS:?set it in .env to the main machine's private IP address}"
    needed = {"postgres": 5432, "redis": 6379, "airflow-apiserver": 8080}
    assert ports == {name: f"{address}:{port}:{port}" for name, port in needed.items()}
    other = _other_worker()
    assert sorted(other["extra_hosts"]) == sorted(f"{name}:{address}" for name in needed)
    # PostgreSQL's URLs have no port, so the default holds.
    urls = " ".join(map(str, other["environment"].values()))
    assert set(re.findall(r"(?:@|//)((?:postgres|redis|airflow-apiserver)\b[:\d]*)", urls)) == {
        "postgres",
        "redis:6379",
        "airflow-apiserver:8080",
    }
    # Airflow reads logs from the host name, which must be the address of the open port.
    assert other["ports"] == [f"{other['hostname']}:8793:8793"]
    assert other["hostname"].startswith("${WORKER_ADDRESS:?")


def _other_worker() -> dict[str, Any]:
    (worker,) = yaml.safe_load(WORKER.read_text())["services"].values()
    found: dict[str, Any] = worker
    return found


def _resolved(environment: dict[str, Any], env: dict[str, str]) -> dict[str, str]:
    """``environment`` with the values that Compose inserts if .env contains ``env``."""

    def value(found: re.Match[str]) -> str:
        default = found[2].removeprefix(":-") if found[2].startswith(":-") else None
        answer = env.get(found[1]) or default
        assert answer is not None, f"{found[1]} is required"
        return answer

    given = {
        name: env.get(name) if text is None else VARIABLE.sub(value, str(text)) for name, text in environment.items()
    }
    return {name: text for name, text in given.items() if text is not None}


def test_the_script_generates_every_secret_of_the_file(tmp_path: Path) -> None:
    asked = {each for each, rest in VARIABLE.findall(COMPOSE.read_text()) if rest.startswith(":?")}
    made = []
    for name in ("one", "two"):
        subprocess.run([MAKE_ENV, tmp_path / name], check=True, capture_output=True)
        made.append({key: value for key, value in variables(tmp_path / name).items() if key in asked})
    assert set(made[0]) == set(made[1]) == asked
    assert all(made[0][key] != made[1][key] and len(made[0][key]) >= 24 for key in asked)
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o600


def test_the_script_keeps_existing_secrets(env_file: Path) -> None:
    before = env_file.read_text()
    done = subprocess.run([MAKE_ENV, env_file], check=True, capture_output=True, text=True)
    assert "nothing was changed" in done.stderr
    assert env_file.read_text() == before


def test_the_file_with_secrets_is_neither_committed_nor_sent_to_a_build() -> None:
    assert ".env" in (REPOSITORY / ".gitignore").read_text().split()
    assert (REPOSITORY / ".dockerignore").read_text().startswith("*\n"), "all but what is named stays out of a build"
    assert "!.env" not in (REPOSITORY / ".dockerignore").read_text()


def test_images_do_not_run_as_root_and_only_the_gpu_worker_has_torch() -> None:
    stages = re.split(r"^FROM ", (REPOSITORY / "docker" / "Dockerfile").read_text(), flags=re.MULTILINE)[1:]
    by_name = {stage.splitlines()[0].split(" AS ")[1]: stage for stage in stages}
    assert re.findall(r"^USER (\S+)", by_name["base"], flags=re.MULTILINE)[-1] == "50000:0"
    users = {name: re.findall(r"^USER (\S+)", stage, flags=re.MULTILINE) for name, stage in by_name.items()}
    assert all(found[-1] == "50000:0" for found in users.values() if found)
    assert {name for name, stage in by_name.items() if "fusion >" in stage} == {"torch"}
    assert {name: stage.split(" AS ")[0] for name, stage in by_name.items() if name in ("airflow", "gpu")} == {
        "airflow": "base",
        "gpu": "torch",
    }


def test_every_package_of_the_images_is_pinned() -> None:
    pins = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (REPOSITORY / "constraints.txt").read_text().splitlines()
    }
    listed = subprocess.run(
        ["python", "docker/requirements.py", "airflow", "celery", "kubernetes", "fusion"],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    names = {re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", line)[0]).lower() for line in listed.splitlines()}  # type: ignore[index]
    assert {"torch", "apache-airflow", "apache-airflow-providers-celery", "pyarrow"} <= names
    assert names <= pins
    # Excludes Celery 5.7, because Airflow's Celery executor cannot be imported with it.
    assert re.search(r"^celery==5\.6\.", (REPOSITORY / "constraints.txt").read_text(), flags=re.MULTILINE)


def test_compose_itself_reads_the_files(env_file: Path, tmp_path: Path) -> None:
    command = next((each for each in (["docker", "compose"], ["docker-compose"]) if _answers(each)), None)
    if command is None:
        pytest.skip("neither docker compose nor docker-compose is installed")
    for file in REPOSITORY.glob("docker-compose*.yaml"):
        shutil.copy(file, tmp_path)
    for main, other in (("docker-compose.yaml", "docker-compose.ports.yaml"), ("docker-compose.worker.yaml", "")):
        files = f"{main}:docker-compose.gpu.yaml:{other}".rstrip(":")
        own = f"COMPOSE_FILE={files}\nMAIN_ADDRESS=10.0.0.5\nWORKER_ADDRESS=10.0.0.6\nCAPSFUSION_STAGING=s3://b/s\n"
        (tmp_path / ".env").write_text(f"{env_file.read_text()}\n{own}")
        done = subprocess.run(
            [*command, "config"],
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        password = variables(env_file)["WAREHOUSE_PASSWORD"]
        assert yaml.safe_load(done.stdout)["services"]["gpu-worker"]["environment"]["CAPSFUSION_WAREHOUSE_URL"] == (
            f"postgresql://capsfusion:{password}@postgres:5432/capsfusion"
        )


def _answers(command: list[str]) -> bool:
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0
