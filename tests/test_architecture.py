"""The rules that keep the structure clean, held by reading the code's own imports."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "capsfusion_tasks"
MODULES = sorted(PACKAGE.rglob("*.py"))
STAGES = {"shards", "pairing", "planning", "fusion", "validation", "warehouse"}


def imports(file: Path) -> set[str]:
    """Absolute names of all modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def stage_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_keeps_to_its_side_of_the_walls(file: Path) -> None:
    names = imports(file)
    tops = {name.partition(".")[0] for name in names}
    assert "airflow" not in tops, "Airflow is imported in dags/ and plugins/ only"
    if stage_of(file) != "fusion":
        assert not tops & {"torch", "transformers"}, "torch is imported in fusion/ only"
    if stage_of(file) in STAGES:
        others = {name.split(".")[1] for name in names if name.startswith("capsfusion_tasks.")} & STAGES
        assert others <= {stage_of(file)}, "a stage imports no other stage"


@pytest.mark.parametrize("file", [f for f in MODULES if stage_of(f) != "warehouse"], ids=lambda file: file.name)
def test_sql_for_the_warehouse_stands_in_the_warehouse_only(file: Path) -> None:
    # The join of pairing/ runs in DuckDB over Arrow tables; what must not leave warehouse/ is the schema's tables.
    assert not re.search(
        r"\b(fused_captions|rejected_captions|work_units)\b.*\b(select|from|where)\b", file.read_text()
    )
    assert not re.search(r"\b(insert into|update|delete from|from|join) capsfusion\.", file.read_text())


def test_what_airflow_imports_does_not_import_torch() -> None:
    code = (
        "import sys, capsfusion_tasks.stages, capsfusion_tasks.pipeline, capsfusion_tasks.cli\n"
        "print(sorted({'torch', 'transformers', 'airflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_each_module_of_the_architecture_page_is_there_and_each_stage_stands_on_it() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = set(re.findall(r"`([a-z_]+(?:\.py|/))`", page))
    for name in named - {"dags/", "plugins/", "training/"}:
        assert [*PACKAGE.rglob(name.rstrip("/"))], f"docs/architecture.md names {name}"
    for stage in STAGES:
        assert f"`{stage}/`" in page or f"`{stage}.py`" in page, f"docs/architecture.md does not name {stage}"
