"""`capsfusion demo --airflow URL` refuses bad input before it writes a shard."""

from __future__ import annotations

from pathlib import Path

import pytest

from capsfusion_tasks.demo.cluster_demo import run_demo_on
from capsfusion_tasks.demo.sample_report import FOLDER
from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.settings import Settings

NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_USER", "admin")
    monkeypatch.setenv("ADMIN_PASSWORD", "secret")


@pytest.mark.parametrize(
    ("laion2b", "laion_coco"),
    [("s3://bucket/laion-2b", "s3://bucket/laion-coco"), ("none", "/data/laion-coco"), ("/data/a", "/data/b")],
)
def test_a_sample_is_never_written_among_real_shards(login: None, laion2b: str, laion_coco: str) -> None:
    with pytest.raises(InputError, match="expected two folders DIR/laion-2b and DIR/laion-coco"):
        run_demo_on(Settings(laion2b=laion2b, laion_coco=laion_coco), NOBODY)


def test_without_a_login_it_names_the_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ADMIN_USER", raising=False)
    with pytest.raises(InputError, match="ADMIN_USER and ADMIN_PASSWORD"):
        run_demo_on(Settings(), NOBODY)


def test_an_airflow_that_does_not_answer_is_named(login: None, tmp_path: Path) -> None:
    sources = {"laion2b": str(tmp_path / FOLDER["laion_2b"]), "laion_coco": str(tmp_path / FOLDER["laion_coco"])}
    with pytest.raises(NotReadyError, match=NOBODY):
        run_demo_on(Settings(**sources), NOBODY)
    assert not list(tmp_path.iterdir())
