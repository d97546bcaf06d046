"""Tests `python -m benchmarks.gpu`: a case that fails does not affect other cases, and only cases use the GPU."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu.__main__ import PARTS, _parser
from benchmarks.gpu.cases import Case, Figures, Line, Options, run_case
from benchmarks.gpu.rates import rate_while_full

pytestmark = pytest.mark.slow


def raises(_: Mapping[str, Figures]) -> list[Line]:
    raise ValueError("no such kernel\nand much more")


def dies(_: Mapping[str, Figures]) -> list[Line]:
    os.kill(os.getpid(), signal.SIGKILL)
    return []


@pytest.mark.parametrize(("end", "why"), [(raises, "ValueError: no such kernel"), (dies, "its process died")])
def test_a_case_that_fails_or_dies_becomes_a_line_that_says_so(
    end: Callable[[Mapping[str, Figures]], list[Line]], why: str
) -> None:
    assert run_case(Case("broken", end), {}) == [Line("broken", "FAILED", why, ok=False)]


def hangs(folder: Path, _: Mapping[str, Figures]) -> list[Line]:
    child = subprocess.Popen(
        ["sleep", "60"], start_new_session=True
    )  # in a session of its own, as torchrun starts ranks
    (folder / "log").write_text("loading\nstuck\n")
    (folder / "child").write_text(str(child.pid))
    time.sleep(60)
    return []


def test_a_case_that_hangs_ends_with_all_that_it_started_and_shows_its_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case("slow", partial(hangs, tmp_path), seconds=2, log=tmp_path / "log")
    assert run_case(case, {}) == [Line("slow", "FAILED", "took longer than 2 s", ok=False)]
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int((tmp_path / "child").read_text())):  # until its parent has collected it
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert "loading\nstuck\n" in capsys.readouterr().out


def doubles(found: Mapping[str, Figures]) -> list[Line]:
    return [Line("whole", "done", figures={"twice": 2 * found["part"]["rows"]})]


def test_a_case_sees_the_figures_of_those_before_it_and_hands_its_own_over() -> None:
    assert run_case(Case("whole", doubles), {"part": {"rows": 21}})[0].figures == {"twice": 42}


@pytest.fixture
def _hopper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nvidia-smi reports one GPU, and initializing CUDA fails the test."""
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 9.0\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def initialize() -> None:
        raise AssertionError("CUDA is initialized, so processes that are forked later cannot use it")

    monkeypatch.setattr(torch.cuda, "_lazy_init", initialize)


@pytest.mark.usefixtures("_hopper")
def test_cases_for_a_gpu_are_built_without_cuda_and_pickle(tmp_path: Path) -> None:
    options = Options(torch.device("cuda"), None, tmp_path, "13B", 64, 2000, 3000, tmp_path, tmp_path)
    names = set()
    for part in PARTS.values():
        cases = part(options)
        loaded = pickle.loads(pickle.dumps(cases))  # noqa: S301 -- our own
        assert [case.name for case in loaded] == [case.name for case in cases]
        names |= {case.name for case in cases}
    assert {"rate, float8, 3 beams", "memory, 24 GiB, float8", "fuse, killed once"} <= names


@pytest.mark.usefixtures("_hopper")
def test_rates_can_be_compared_for_several_numbers_of_slots(tmp_path: Path) -> None:
    args = _parser().parse_args(["--beams", "1", "--slots", "512", "1024"])
    options = Options(
        torch.device("cuda"), None, tmp_path, "13B", 64, 2000, 3000, tmp_path, tmp_path, args.beams, args.slots
    )
    assert [case.name for case in PARTS["rates"](options)] == [
        f"rate, {dtype}, greedy, at most {slots} slots" for dtype in ("bfloat16", "float8") for slots in (512, 1024)
    ]


@pytest.mark.usefixtures("_hopper")
def test_the_device_is_a_gpu_where_nvidia_smi_has_one_that_cuda_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _parser().parse_args([]).device.type == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _parser().parse_args([]).device.type == "cpu"


def test_the_rate_with_all_slots_busy_leaves_out_the_first_turnover_and_the_end() -> None:
    # With two slots: the first row ends after 10 s, then a row ends each second. The last two rows take 5 s each.
    assert rate_while_full([10, 11, 12, 13, 14, 15, 20, 25], slots=2) == pytest.approx(1.0)
    assert rate_while_full([1, 2, 3, 4, 5], slots=2) is None
