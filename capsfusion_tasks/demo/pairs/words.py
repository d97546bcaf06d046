"""Reads the word lists and templates in the files beside this module. In these files, `#` begins a comment."""

from __future__ import annotations

import configparser
import functools
from pathlib import Path

Tables = dict[str, list[str]]
_HERE = Path(__file__).parent


def _load(name: str) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(
        interpolation=None, delimiters=("=",), comment_prefixes=("#",), empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign] # keep the capitals in names of slots
    parser.read_string((_HERE / name).read_text(encoding="utf-8"), source=name)
    return {section: dict(parser[section]) for section in parser.sections()}


def _tables(section: dict[str, str]) -> Tables:
    """The word lists in a section of an .ini file. Semicolons or line breaks separate entries."""
    return {
        name: [item for item in (part.strip() for part in text.replace("\n", ";").split(";")) if item]
        for name, text in section.items()
    }


CULTURES = [
    {part: text.split(",") if part == "country" else text.split() for part, text in culture.items()}
    for culture in _load("cultures.ini").values()
]
VOCABULARY = (_HERE / "vocabulary.txt").read_text(encoding="utf-8").split()
COMMON = _tables(_load("common.ini")["common"])
KINDS = {name: _tables(section) for name, section in _load("kinds.ini").items()}
_SECTIONS = {name: _tables(section) for name, section in _load("domains.ini").items()}
KIND_OF = {name: tables.pop("kind")[0] for name, tables in _SECTIONS.items()}
# For each domain: its own lists, then the lists of its kind, then the common lists.
DOMAINS = {name: (tables, KINDS[KIND_OF[name]], COMMON) for name, tables in _SECTIONS.items()}


@functools.cache
def words_of(name: str) -> tuple[str, ...]:
    """The word list `name` of common.ini. `~` stands for a leading or trailing space."""
    return tuple(entry.replace("~", " ") for entry in COMMON[name])
