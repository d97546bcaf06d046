"""If Python is missing, too old, or has no venv module, `make` says so in one line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

TOO_OLD = """#!/bin/sh
[ "$1" = --version ] && echo Python 3.9.1 && exit
exit 1
"""
WITHOUT_VENV = """#!/bin/sh
[ "$1" = --version ] && echo Python 3.11.2 && exit
case "$2" in *ensurepip*) exit 1;; esac
"""


@pytest.mark.parametrize(
    ("python", "message"),
    [
        (None, "Python 3.11 or 3.12 is needed, found none: install one, or name it: make PYTHON=/path/to/python3.11"),
        (TOO_OLD, "Python 3.11 or 3.12 is needed, found Python 3.9.1: install one, or name it: make PYTHON=/path/to"),
        (WITHOUT_VENV, "Python 3.11.2 has no venv module: install it (Debian and Ubuntu: apt install python3-venv)"),
    ],
    ids=["none", "too old", "without venv"],
)
def test_make_says_which_python_it_needs(tmp_path: Path, python: str | None, message: str) -> None:
    commands = tmp_path / "commands"
    commands.mkdir()
    for name in ("sh", "make"):
        (commands / name).symlink_to(str(shutil.which(name)))
    if python:
        (commands / "python3").write_text(python)
        (commands / "python3").chmod(0o755)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment |= {"PATH": str(commands)}
    done = subprocess.run(["make", "demo"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[0]
    assert not (tmp_path / ".venv").exists()
