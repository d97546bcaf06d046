"""Checks the files of deploy/ that can be checked without a cluster and without the Helm chart."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.stack import setting_names

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
VALUES = REPOSITORY / "deploy" / "values.yaml"
GPU_POD = REPOSITORY / "deploy" / "gpu-pod.yaml"
SETTINGS = setting_names()

# Prints the pods that KubernetesExecutor would create with the given pod files. Runs in its own process, because it
# imports Airflow.
CONSTRUCT_PODS = """
import json, os, sys
sys.path.insert(0, "plugins")
import yaml
from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
from kubernetes.client import ApiClient
from capsfusion_tasks.errors import InputError
from gpu_pod import gpu_executor_config

def pod_with(file):
    os.environ["CAPSFUSION_GPU_POD"] = file
    try:
        override = gpu_executor_config()["pod_override"]
    except InputError as error:
        return {"error": str(error)}
    worker = PodGenerator.deserialize_model_dict(json.loads(sys.argv[1]))
    pod = PodGenerator.construct_pod(
        dag_id="capsfusion", task_id="fuse", pod_id="fuse-0", try_number=1, kube_image="capsfusion-airflow", date=None,
        args=["airflow"], pod_override_object=override, base_worker_pod=worker, namespace="capsfusion",
        scheduler_job_id="1", map_index=0,
    )
    return ApiClient().sanitize_for_serialization(pod)

print(json.dumps([pod_with(file) for file in sys.argv[2:]]))
"""


@pytest.fixture(scope="module")
def values() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    return loaded


def worker_pod(values: dict[str, Any]) -> dict[str, Any]:
    """A task's pod as the chart builds it from ``values``. Has only the parts that these tests need."""
    container = {
        "name": "base",
        "env": values["env"],
        "volumeMounts": values["volumeMounts"],
        "resources": values["workers"]["kubernetes"]["resources"],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "placeholder-name", "labels": {"component": "worker"}},
        "spec": {"containers": [container], "volumes": values["volumes"], "securityContext": {"runAsUser": 50000}},
    }


@pytest.fixture(scope="module")
def found(values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A fuse task's pod with our file ("sound"), and with a broken copy of it ("broken")."""
    pytest.importorskip("kubernetes", reason="Airflow's Kubernetes provider is not installed: make install")
    folder = tmp_path_factory.mktemp("kubernetes")
    broken = folder / "gpu-pod.yaml"
    broken.write_text(GPU_POD.read_text().replace("sizeLimit:", "size:").replace("tolerations:", "toleration:"))
    done = subprocess.run(
        [sys.executable, "-c", CONSTRUCT_PODS, json.dumps(worker_pod(values)), GPU_POD, broken],
        cwd=REPOSITORY,
        env={**os.environ, "AIRFLOW_HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(("sound", "broken"), json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_a_fuse_task_gets_gpus_and_shared_memory_on_top_of_what_every_task_gets(
    values: dict[str, Any], found: dict[str, Any]
) -> None:
    pod = found["sound"]
    (container,) = pod["spec"]["containers"]
    assert container["image"].split("/")[-1].startswith("capsfusion-gpu:")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]} == {
        "models": "/data/models",
        "home": "/data/home",
        "gpu-pod": "/opt/capsfusion/pod",
        "shm": "/dev/shm",  # noqa: S108
    }
    assert next(each for each in pod["spec"]["volumes"] if each["name"] == "shm")["emptyDir"]["medium"] == "Memory"
    assert pod["spec"]["nodeSelector"]
    assert pod["spec"]["tolerations"]
    assert {each["name"] for each in container["env"]} > {each["name"] for each in values["env"]}
    assert pod["spec"]["securityContext"]["runAsUser"] == 50000


def test_a_field_that_kubernetes_does_not_know_is_named(found: dict[str, Any]) -> None:
    error = found["broken"]["error"]
    assert "spec.toleration" in error
    assert "spec.volumes.0.emptyDir.size" in error


def test_without_a_pod_file_fuse_tasks_ask_for_nothing_special() -> None:
    code = "import sys; sys.path.insert(0, 'plugins'); import gpu_pod; print(gpu_pod.gpu_executor_config())"
    environment = {name: value for name, value in os.environ.items() if name != "CAPSFUSION_GPU_POD"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "{}"


def test_what_the_values_set_is_what_the_code_reads(values: dict[str, Any]) -> None:
    given = {each["name"] for each in values["env"]} | {each["envName"] for each in values["secret"]}
    assert {each for each in given if each.startswith("CAPSFUSION_")} <= (
        SETTINGS | {"CAPSFUSION_AWS_CONN_ID", "CAPSFUSION_GPU_POD"}
    )
    assert {"CAPSFUSION_WAREHOUSE_URL", "CAPSFUSION_STAGING", "CAPSFUSION_GPU_POD"} <= given
    mounts = {mount["name"]: mount["mountPath"] for mount in values["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in values["volumes"]}
    home = next(each["value"] for each in values["env"] if each["name"] == "CAPSFUSION_HOME")
    assert [mount for mount in values["volumeMounts"] if mount["mountPath"] == home] == [
        {"name": "home", "mountPath": home}
    ], "digests of weights and compiled kernels stay, so the mount is not readOnly"
    pod_file = next(each["value"] for each in values["env"] if each["name"] == "CAPSFUSION_GPU_POD")
    assert pod_file == f"{mounts['gpu-pod']}/{GPU_POD.name}"
    assert values["airflowVersion"] in (REPOSITORY / "docker" / "Dockerfile").read_text()
    assert f"apache-airflow=={values['airflowVersion']}\n" in (REPOSITORY / "constraints.txt").read_text()


def test_secrets_are_references_and_the_chart_s_default_account_is_off(values: dict[str, Any]) -> None:
    for name in ("fernetKeySecretName", "apiSecretKeySecretName", "jwtSecretName"):
        assert values[name]
    assert values["data"] == {"metadataSecretName": "capsfusion-airflow-database"}
    assert values["createUserJob"] == {"enabled": False}
    assert not values["postgresql"]["enabled"]
    assert "ingress" not in values
    literal = re.sub(r"#.*", "", VALUES.read_text())
    assert not re.search(r"(?i)(password|secret|token|key): *[\"']?[a-z0-9]{12,}[\"']?$", literal, flags=re.MULTILINE)
    assert not re.search(r"://[^/\s]+:[^/\s]+@", literal)


def test_the_secrets_that_the_values_name_are_those_that_the_page_creates(values: dict[str, Any]) -> None:
    named = set(re.findall(r"(?:[sS]ecretName: |- secretRef:\n\s+name: )([\w-]+)", VALUES.read_text()))
    page = (REPOSITORY / "docs" / "operations.md").read_text()
    created = set(re.findall(r"create secret generic ([\w-]+)", page))
    assert named == created
    assert "create configmap capsfusion-gpu-pod" in page
    assert next(each for each in values["volumes"] if each["name"] == "gpu-pod")["configMap"]["name"] in page
