"""Glob patterns that say which files of a source are shards. All kinds of sources use them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import translate

import bracex

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.locations import is_hidden

_MOST_ALTERNATIVES = 10_000  # maximum number of alternatives of a pattern with braces, such as {00000..09999}
_NOTHING = r"(?!)"  # a regular expression that matches nothing


def path_filter(include: Sequence[str], exclude: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a path matches a pattern of ``include`` and none of ``exclude``, and is not hidden.

    Raises InputError for a pattern with too many alternatives.
    """
    included, excluded = path_matcher(include), path_matcher(exclude)
    return lambda path: not is_hidden(path) and included(path) and not excluded(path)


def path_matcher(patterns: Sequence[str]) -> Callable[[str], bool]:
    """A function that tells whether a path matches one of ``patterns``.

    A pattern without "/" is compared with the file's name. A pattern with "/" is compared with the whole relative path,
    and its ``*`` also matches "/". ``**/`` matches any number of folders, or none. ``{a,b}`` and ``{00..31}`` are
    alternatives.
    """
    globs = [glob for pattern in patterns for glob in _globs(pattern)]
    # One expression for all alternatives, because matching thousands of globs one by one is slow.
    names = re.compile("|".join(translate(glob) for glob in globs if "/" not in glob) or _NOTHING)
    paths = re.compile("|".join(translate(glob) for glob in globs if "/" in glob) or _NOTHING)
    return lambda path: bool(names.match(path.rpartition("/")[2]) or paths.match(path))


def _globs(pattern: str) -> Iterator[str]:
    """Split ``pattern`` into patterns that ``fnmatch`` understands."""
    try:
        expanded = list(bracex.iexpand(pattern, limit=_MOST_ALTERNATIVES))
    except bracex.ExpansionLimitException as error:
        raise InputError(
            f"the pattern {pattern} has more than {_MOST_ALTERNATIVES:,} alternatives: use * or a range such as [0-9]"
        ) from error
    for one in expanded:
        yield from _with_and_without_folders(one.removeprefix("./"))


def _with_and_without_folders(pattern: str) -> Iterator[str]:
    before, any_folders, after = pattern.partition("**/")
    for rest in _with_and_without_folders(after) if any_folders else ("",):
        yield before + any_folders + rest
        if any_folders:
            yield before + rest
