"""The pod of a fuse task under KubernetesExecutor: its GPUs, shared memory, image and node."""

from __future__ import annotations

import os
from typing import Any

import yaml

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.locations import absolute_path


def gpu_executor_config() -> dict[str, Any]:
    """``executor_config`` with the pod from the file that CAPSFUSION_GPU_POD names. Empty if the variable is not set.

    Airflow merges this pod into the pod template of all tasks, which has the volumes and secrets. Raises InputError if
    the file cannot be read or has a field that Kubernetes does not know, because Kubernetes would silently drop the
    field.
    """
    path = os.environ.get("CAPSFUSION_GPU_POD")
    if not path:
        return {}
    # Imported here, because the provider is not installed with other executors.
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    try:
        wanted = yaml.safe_load(absolute_path(path).read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"CAPSFUSION_GPU_POD: cannot read {path}: {error}") from error
    if not isinstance(wanted, dict):
        raise InputError(f"CAPSFUSION_GPU_POD: {path} is not a pod: expected apiVersion, kind and spec")
    pod = PodGenerator.deserialize_model_dict(wanted)
    if unknown := _missing(wanted, ApiClient().sanitize_for_serialization(pod)):
        raise InputError(
            f"CAPSFUSION_GPU_POD: {path} has fields that a pod does not have: correct {', '.join(unknown)}"
        )
    return {"pod_override": pod}


def _missing(wanted: Any, found: Any, place: str = "") -> list[str]:
    """Paths, such as ``spec.containers.0.resource``, of fields that are in ``wanted`` but not in ``found``."""
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [place] if wanted else []
        parts = [(key, value, found.get(key)) for key, value in wanted.items()]
    elif isinstance(wanted, list):
        parts = [(i, value, found[i] if found else None) for i, value in enumerate(wanted)]
    else:
        return [] if found is not None or wanted is None else [place]
    return [each for key, value, other in parts for each in _missing(value, other, f"{place}.{key}".lstrip("."))]
