"""The engine's benchmarks and tests run with torch, transformers, sentencepiece, pyarrow, rich and pydantic only."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

GIVEN = ("torch", "transformers", "sentencepiece", "pyarrow", "rich", "pydantic", "pytest")
MODULES = ("benchmarks.fusion", "benchmarks.exactness", "benchmarks.gpu.__main__", "benchmarks.random_checkpoint")
CONFTESTS = ("tests.conftest", "tests.fusion.conftest", "tests.fusion.native.conftest")

OURS = ("capsfusion_tasks", "benchmarks", "tests")

# Imports modules as if only the packages in the first argument were installed. All other packages are hidden: Python
# does not find them. Raising an error instead would break transformers, which looks for optional packages.
HIDE = """
import importlib, importlib.metadata, sys
from importlib.machinery import PathFinder

hidden = set(importlib.metadata.packages_distributions()) - set(sys.argv[1].split(","))

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
for module in sys.argv[2:]:
    importlib.import_module(module)
"""


def with_dependencies(names: tuple[str, ...]) -> set[str]:
    """The distributions ``names``, and all installed distributions that they require without extras."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop().lower().replace("_", "-")
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform
        if name not in found:
            found.add(name)
            needed = [Requirement(text) for text in requirements]
            left += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found


@pytest.mark.slow
def test_the_engines_benchmarks_and_tests_import_nothing_beyond_the_packages_that_they_name() -> None:
    distributions = with_dependencies(GIVEN)
    allowed = [
        module
        for module, owners in importlib.metadata.packages_distributions().items()
        if module in OURS or {owner.lower().replace("_", "-") for owner in owners} & distributions
    ]
    assert "torch" in allowed
    assert not {"pydantic_settings", "sqlalchemy", "duckdb"} & set(allowed)
    command = [sys.executable, "-c", HIDE, ",".join(allowed), *MODULES, *CONFTESTS]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
