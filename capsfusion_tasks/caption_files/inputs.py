"""Finds the files for the arguments IN and OUT of a command: one file, or the files of folders and patterns."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsfusion_tasks.caption_files.formats import NAMES, has_format
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.locations import is_hidden, parts_path, walk


@dataclass(frozen=True)
class InOut:
    """An input file, and the output file for its rows."""

    source: Path
    target: Path


def inputs_and_outputs(sources: Sequence[Path], target: Path) -> list[InOut]:
    """Find the files that ``sources`` name, and choose an output for each. Returns them sorted by output path.

    A source is a file, a folder with files at any depth, or a pattern with ``*``, ``?`` or ``[…]``. For a single file,
    ``target`` is the output or a folder for the output. Otherwise ``target`` is a folder, and each output keeps its
    input's path below the source's folder.

    If a source is a folder or a pattern, some files are left out: files in ``target``, files in the folder
    ``target``.parts (rows of an unfinished run), and files whose names or folders begin with a dot or an underscore,
    unless the pattern itself has such a name (data/_*/1.json). If a source is a folder, files without the ending of a
    caption file are left out, too. Raises InputError if no file is found, or if two outputs would have the same path.
    """
    if len(sources) == 1 and _is_single(sources[0]) and not target.is_dir():
        return [InOut(sources[0], target)]
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file: name a folder for OUT, because IN is more than one file")
    if not target.is_dir() and has_format(target):
        raise InputError(f"{target} has the name of a file: name a folder for OUT, because IN is more than one file")
    found: dict[Path, Path] = {}
    for source in sources:
        for file, place in _files(source, target):
            if found.setdefault(place, file) != file:
                raise InputError(
                    f"{found[place]} and {file} would both be written to {target / place}: write one of them to"
                    " another folder"
                )
    return [InOut(found[place], target / place) for place in sorted(found)]


def _is_single(source: Path) -> bool:
    return source.is_file() or not (source.is_dir() or glob.has_magic(str(source)))


def _files(source: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Each file that ``source`` names, with its path relative to the folder of ``source``."""
    if _is_single(source):
        yield source, Path(source.name)
        return
    base = source if source.is_dir() else _before_magic(source)
    if target.exists() and base.exists() and target.samefile(base):
        raise InputError(f"{target} is the folder of the input: choose another folder for the output")
    found = _found(source)
    with_hidden = _is_hidden(source.relative_to(base))  # true if the pattern itself names hidden files, such as _late/*
    # OUT can be inside IN. Files in OUT, and finished rows in OUT.parts, are not inputs.
    beside = (target.resolve(), parts_path(target).resolve())
    ours = [each for each in beside if each.is_relative_to(base.resolve())]

    def is_ours(path: Path) -> bool:
        folders = [each.resolve() for each in path.parents if each != base and each.is_relative_to(base)]
        # A link in IN can lead to OUT, although OUT is not inside IN.
        return any(each in beside for each in folders) or any(
            path.parent.resolve().is_relative_to(each) for each in ours
        )

    inputs = [path for path in found if (with_hidden or not _is_hidden(path.relative_to(base))) and not is_ours(path)]
    if not inputs:
        raise InputError(
            f"{source} has only files that are left out, such as {found[0]}: files in OUT or"
            f" {parts_path(target).name}, and files whose names or folders begin with a dot or an"
            " underscore, are not inputs; name other files"
        )
    yield from ((path, path.relative_to(base)) for path in inputs)


def _found(source: Path) -> list[Path]:
    """The caption files in a folder, or the files that match a pattern. Raises InputError if there are none."""
    if source.is_dir():
        found = sorted(path for path in _below(source) if has_format(path))
        missing = f"{source} has no caption files: their names must end in {NAMES}"
    else:
        found = [path for name in sorted(glob.glob(str(source), recursive=True)) if (path := Path(name)).is_file()]
        missing = f"no file matches {source}: check the pattern"
    if not found:
        raise InputError(missing)
    return found


def _below(folder: Path) -> Iterator[Path]:
    """All files at any depth below ``folder``. Follows links to folders, unless a link's name begins with . or _."""

    def leave_out(_: str, entry: os.DirEntry[str]) -> bool:
        return is_hidden(entry.name) and entry.is_symlink() and entry.is_dir()

    # Leave out what cannot be read, such as the folder lost+found or a dead link.
    return (
        folder / path
        for path, status, _ in walk(folder, leave_out)
        if not isinstance(status, OSError) and stat.S_ISREG(status.st_mode)
    )


def _is_hidden(place: Path) -> bool:
    return any(is_hidden(part) for part in place.parts)


def _before_magic(pattern: Path) -> Path:
    """The folders at the start of ``pattern``, before the first part with a wildcard such as ``*``."""
    base = pattern
    while glob.has_magic(str(base)):
        base = base.parent
    return base
