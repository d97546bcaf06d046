"""What a fuse task's pod has beyond other tasks' under KubernetesExecutor: GPUs, shared memory, its image and node."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from capsfusion_tasks.errors import InputError


def gpu_executor_config() -> dict[str, Any]:
    """``executor_config`` with the pod in the file that CAPSFUSION_GPU_POD names; empty where it names none.

    The pod is laid over the one that other tasks get, which brings volumes and secrets. Raises InputError for a file
    that is not there or has anything that Kubernetes does not know: it would be dropped without a word.
    """
    path = os.environ.get("CAPSFUSION_GPU_POD")
    if not path:
        return {}
    # Imported here: the other executors do without this provider.
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    try:
        wanted = yaml.safe_load(Path(path).read_text())
    except (OSError, yaml.YAMLError) as error:
        raise InputError(f"CAPSFUSION_GPU_POD: cannot read {path}: {error}") from error
    if not isinstance(wanted, dict):
        raise InputError(f"CAPSFUSION_GPU_POD: {path} is no pod: expected apiVersion, kind and spec")
    pod = PodGenerator.deserialize_model_dict(wanted)
    if unknown := _missing(wanted, ApiClient().sanitize_for_serialization(pod)):
        raise InputError(f"CAPSFUSION_GPU_POD: {path} has what a pod cannot have: {', '.join(unknown)}")
    return {"pod_override": pod}


def _missing(wanted: Any, found: Any, place: str = "") -> list[str]:
    """Places of ``wanted`` that ``found`` lacks: ``spec.containers.0.resource``."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [place] if wanted else []
        parts = [(key, value, found.get(key)) for key, value in wanted.items()]
    elif isinstance(wanted, list):
        parts = [(i, value, found[i] if found else None) for i, value in enumerate(wanted)]
    else:
        return [] if found is not None or wanted is None else [place]
    return [each for key, value, other in parts for each in _missing(value, other, f"{place}.{key}".lstrip("."))]
