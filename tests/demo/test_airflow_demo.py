"""Tests how the demo makes its sample and chooses its settings, without a running Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from capsfusion_tasks.demo import airflow_demo
from capsfusion_tasks.demo.sample_data import write_sample_data
from capsfusion_tasks.settings import Settings


def test_a_sample_of_an_earlier_version_stays(tmp_path: Path) -> None:
    earlier = write_sample_data(tmp_path / "sample", rows_per_day=20, days=2)
    assert airflow_demo._write_sample(tmp_path) == earlier


def test_without_a_gpu_days_are_fused_at_the_same_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    for gpus, tasks in ((0, 3), (2, 1)):
        monkeypatch.setattr(airflow_demo, "gpu_count", lambda found=gpus: found)
        assert airflow_demo._on_sample(settings)[1] == tasks
    monkeypatch.setattr(airflow_demo, "gpu_count", lambda: 0)
    assert airflow_demo._on_sample(settings.model_copy(update={"nproc_per_node": 2}))[1] == 1
