"""Finds the files for the arguments IN and OUT of a command: one file, or the files of folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from capsfusion_tasks.caption_files.formats import NAMES, has_format
from capsfusion_tasks.errors import InputError


@dataclass(frozen=True)
class InOut:
    """An input file, and the output file for its rows."""

    source: Path
    target: Path


def inputs_and_outputs(sources: Sequence[Path], target: Path) -> list[InOut]:
    """Find the files that ``sources`` name, and choose an output in ``target`` for each. Sorted by output.

    A source is a file, a folder with files at any depth, or a pattern with ``*``, ``?`` or ``[…]``. For a single file,
    ``target`` is the output or a folder for the output. Otherwise ``target`` is a folder, and each output keeps its
    input's path below the source's folder.

    In a folder, these files are not inputs: files with other endings, files whose names begin with a dot or an
    underscore, and files in ``target``. Raises InputError if no file is found, or if two outputs would have the same
    path.
    """
    if len(sources) == 1 and _is_single(sources[0]) and not target.is_dir():
        return [InOut(sources[0], target)]
    if target.exists() and not target.is_dir():
        raise InputError(f"{target} is a file, but OUT must be a folder, because IN is more than one file")
    if not target.is_dir() and has_format(target):
        raise InputError(f"OUT must be a folder, because IN is more than one file; {target} has the name of a file")
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
    elif source.is_dir():
        if target.exists() and target.samefile(source):
            raise InputError(f"{target} is the folder of the input: choose another folder for the output")
        # OUT can be inside IN. Files in OUT, and files with finished rows beside OUT, are not inputs.
        beside = (target.absolute(), target.absolute().with_name(f"{target.name}.parts"))
        ours = [each for each in beside if each.is_relative_to(source.absolute())]
        files = [
            path
            for path in sorted(source.rglob("*"))
            if has_format(path)
            and not any(part.startswith((".", "_")) for part in path.relative_to(source).parts)
            and not any(path.absolute().is_relative_to(each) for each in ours)
            and path.is_file()
        ]
        if not files:
            raise InputError(f"{source} has no caption files: their names must end in {NAMES}")
        yield from ((path, path.relative_to(source)) for path in files)
    else:
        names = sorted(name for name in glob.glob(str(source), recursive=True) if Path(name).is_file())
        if not names:
            raise InputError(f"no file matches {source}")
        base = _before_magic(source)
        yield from ((Path(name), Path(name).relative_to(base)) for name in names)


def _before_magic(pattern: Path) -> Path:
    """The folders at the start of ``pattern``, before the first part with a special character."""
    base = pattern
    while glob.has_magic(str(base)):
        base = base.parent
    return base
