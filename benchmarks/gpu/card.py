"""Reads from nvidia-smi which GPUs there are.

Does not use torch, because torch would initialize CUDA, and then forked processes could not use the GPUs.
"""

from __future__ import annotations

import os
import re
import subprocess

import torch

from capsfusion_tasks.fusion.native.float8 import MIN_CAPABILITY


def compute_capabilities() -> list[tuple[int, int]]:
    """The compute capability of each visible card (CUDA_VISIBLE_DEVICES). Empty without a driver."""
    command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        if visible.strip() in ("", "-1"):
            return []
        command.append(f"--id={visible}")
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return [(int(major), int(minor)) for major, minor in re.findall(r"^(\d+)\.(\d+)\s*$", answer, re.MULTILINE)]


def has_float8(device: torch.device) -> bool:
    """Whether ``device`` supports float8 matrix products."""
    if device.type != "cuda":
        return False
    capabilities = compute_capabilities()
    number = device.index or 0
    return number < len(capabilities) and capabilities[number] >= MIN_CAPABILITY
