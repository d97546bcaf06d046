"""Checks the rules for the code's structure: which part may import which, and which parts may contain SQL."""

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

# For each part of the package, the parts that it may import. A part never imports a part that is further down.
BASE = {
    "__init__",
    "errors",
    "locations",
    "decoding",
    "thresholds",
    "settings",
    "intervals",
    "caption_filter",
    "schemas",
    "hub_client",
}
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "locations": set(),
    "decoding": set(),
    "thresholds": set(),
    "variables": set(),
    "setting_types": {"locations"},
    "settings": {"__init__", "errors", "setting_types", "thresholds", "variables"},
    "intervals": {"errors"},
    "caption_filter": {"errors"},
    "schemas": {"errors", "intervals", "caption_filter"},
    "hub_client": set(),
    "pull_rules": {"settings"},
    "staging": BASE,
    "caption_files": BASE | {"staging"},
    "shards": BASE | {"staging", "setting_types"},
    "pairing": BASE | {"staging", "pull_rules"},
    "fusion": BASE | {"staging", "caption_files"},
    "validation": BASE | {"staging", "caption_files"},
    "warehouse": BASE,
    "terminal": BASE | {"caption_files", "validation"},
    "context": BASE | {"staging", "fusion", "warehouse"},
    "lake": BASE | {"warehouse"},
    "explorer": BASE | {"validation", "warehouse"},
    "planning": BASE | {"context", "staging", "pull_rules", "shards", "pairing", "fusion", "warehouse"},
    "upkeep": BASE | {"context", "staging", "shards", "pairing", "fusion", "warehouse", "planning"},
    "tasks": BASE
    | {"context", "staging", "pull_rules", "shards", "pairing", "fusion", "validation", "warehouse", "planning"}
    | {"upkeep", "lake"},
    "demo": BASE | {"context", "staging", "fusion", "validation", "warehouse", "terminal"},
    "cli": BASE
    | {"variables"}
    | {"context", "staging", "caption_files", "fusion", "validation", "warehouse", "planning", "upkeep", "tasks"}
    | {"terminal", "demo"},
    "entry": {"cli"},
}


def imports(file: Path) -> set[str]:
    """Absolute names of all modules that a file imports, also those imported inside functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def parts_imported(file: Path) -> set[str]:
    """The other parts of the package that a file imports from. "__init__" stands for names of the package itself."""
    inside = {name.split(".")[1] for name in imports(file) if name.startswith("capsfusion_tasks.")}
    return {name if name in MAY_IMPORT else "__init__" for name in inside} - {part_of(file)}


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(file: Path) -> None:
    assert part_of(file) in MAY_IMPORT, "a new part: say in MAY_IMPORT what it may import"
    assert parts_imported(file) <= MAY_IMPORT[part_of(file)]
    tops = {name.partition(".")[0] for name in imports(file)}
    assert "airflow" not in tops, "Airflow is imported in dags/ and plugins/ only"
    if part_of(file) != "fusion":
        assert not tops & {"torch", "transformers"}, "torch is imported in fusion/ only"


def test_no_part_imports_one_that_stands_below_it() -> None:
    order = list(MAY_IMPORT)
    for part, allowed in MAY_IMPORT.items():
        assert all(order.index(other) < order.index(part) for other in allowed), part


def test_tasks_plans_and_upkeep_use_the_warehouse_that_is_open() -> None:
    """A task opens the warehouse only once, in its Context. So only these parts call ``open_warehouse``."""
    opens = {part_of(file) for file in MODULES if any(name.endswith(".open_warehouse") for name in imports(file))}
    assert opens == {"context", "explorer", "cli", "demo"}


TABLES = r"(?:capsfusion\.\w+|fused_captions|rejected_captions|replayed_captions|work_units)"
SQL = re.compile(rf"\b(?:from|join|into|update|table)\s+{TABLES}\b|\bselect\b[^.]*\bfrom\s+{TABLES}\b", re.IGNORECASE)


def sql_in(source: str) -> list[str]:
    """String constants in Python source that have SQL for the warehouse. Skips docstrings, which may show examples."""
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    texts = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs
    ]
    shown = re.compile(r"\bsql [\"']")  # `capsfusion sql …`, printed for users to type
    return [text for text in texts if SQL.search(text) and not shown.search(text)]


@pytest.mark.parametrize(
    "statement",
    [
        'run("select count(*) from fused_captions")',
        'run("SELECT 1 FROM capsfusion.shards")',
        "run(f\"delete from capsfusion.work_units where unit_id = '{unit}'\")",
        'run("""update\n  work_units set state = 1""")',
        'run("insert into rejected_captions values (1)")',
    ],
)
def test_sql_for_the_warehouse_is_found(statement: str) -> None:
    assert sql_in(statement)


def test_sql_for_the_warehouse_stands_in_the_warehouse_only() -> None:
    # Only names of the warehouse's tables count, because pairing/ also has SQL: for DuckDB, over other tables.
    outside = [file for file in MODULES if part_of(file) != "warehouse"]
    found = {str(file.relative_to(ROOT)): texts for file in outside if (texts := sql_in(file.read_text()))}
    assert not found


def test_what_airflow_imports_does_not_import_torch() -> None:
    code = (
        "import sys, capsfusion_tasks.tasks.interval_tasks, capsfusion_tasks.tasks.local_run, capsfusion_tasks.cli\n"
        "print(sorted({'torch', 'transformers', 'airflow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("page", ["architecture", "joins", "units", "consistency", "airflow", "engine", "state"])
def test_each_file_that_a_page_names_exists(page: str) -> None:
    named = set(re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:\.py|/))`", (ROOT / "docs" / f"{page}.md").read_text()))
    for name in named:
        found = (ROOT / name).exists() or [*PACKAGE.rglob(name.rstrip("/"))]
        assert found, f"docs/{page}.md names {name}"


def test_the_architecture_page_names_each_part() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for part in MAY_IMPORT.keys() - {"__init__"}:
        assert f"`{part}/`" in page or f"`{part}.py`" in page, f"docs/architecture.md does not name {part}"
