"""Checks that the program has all commands, arguments and options that the documentation uses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from capsfusion_tasks.cli import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "dags").glob("*.md"))]
COMMANDS = sorted(
    {command for page in PAGES for command in re.findall(r"^ {4}capsfusion (.*)$", page.read_text(), re.M)}
)


def parse(command: str) -> None:
    """Parse the command's arguments and options without running it. Raises SystemExit or a usage error."""
    words = shlex.split(re.sub(r" > \S+$", "", command), comments=True)  # drop a shell redirection such as > FILE
    parsed: Any = get_command(app)
    context = parsed.make_context("capsfusion", words[:1])
    while hasattr(parsed, "commands"):
        parsed, words = parsed.commands[words[0]], words[1:]
        context = parsed.make_context(parsed.name, list(words), parent=context)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_program_has_the_command(command: str) -> None:
    parse(command)


def test_the_pages_have_commands() -> None:
    assert len(COMMANDS) > 50


@pytest.mark.parametrize("wrong", ["fuse in.jsonl out.jsonl --beams 3", "lake tidy", "plan --gpus many"])
def test_a_wrong_command_is_found(wrong: str) -> None:
    with pytest.raises(Exception, match=r"No such option|valid integer|tidy"):
        parse(wrong)
