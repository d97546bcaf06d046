"""Checks README.md, SECURITY.md and docs/: the targets of links, the commands and their options must exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from capsfusion_tasks.cli import app
from capsfusion_tasks.validation.rules import FLAGS, REASONS
from capsfusion_tasks.warehouse.caption_tables import judgements

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The `capsfusion` commands in a page's indented blocks. Each is a list of words, without the program's name."""
    lines = [line.strip() for line in page.read_text().splitlines() if line.startswith("    capsfusion ")]
    return [shlex.split(line)[1:] for line in lines]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {path}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {path}#{anchor}"


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    for words in commands(page):
        name = words[:2] if words[0] in ("db", "lake") else words[:1]
        shown = CliRunner().invoke(app, [*name, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, words
        options = [word.partition("=")[0] for word in words if word.startswith("--")]
        assert [option for option in options if option not in shown.output] == [], words


def test_make_targets_of_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z][a-z-]*)", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_make_help_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)) - {"help"}
    shown = "\n".join(re.findall(r"^\t@echo \"(.+)\"$", makefile, re.MULTILINE))
    # The lines of `make bench` name the benchmarks that it runs by their endings: -pairing for bench-pairing.
    endings = {f"bench{ending}" for ending in re.findall(r" (-[a-z]+)[,;]", shown)}
    assert targets == {*re.findall(r"^make ([a-z-]+)", shown, re.MULTILINE), *endings, "bench-fusion"}


def test_the_validation_page_names_every_reason_and_flag() -> None:
    page = (ROOT / "docs" / "validation.md").read_text()
    assert [name for name in (*REASONS, *(flag.__name__ for flag in FLAGS)) if f"`{name}`" not in page] == []


def test_the_page_of_queries_names_every_table() -> None:
    page = (ROOT / "docs" / "queries.md").read_text().split("## Which tables are there?")[1].split("## ")[0]
    listed = set(re.findall(r"^\| `(\w+)`", page, re.MULTILINE))
    assert listed == {"captions", *(table.name for table in judgements.metadata.sorted_tables)}
