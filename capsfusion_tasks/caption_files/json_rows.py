"""Reads the values of a JSON file one at a time, because the file may be larger than the memory."""

from __future__ import annotations

import codecs
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from capsfusion_tasks.caption_files.formats import format_of, reading
from capsfusion_tasks.errors import InputError

_PIECE = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")

# Number of characters. A word or an escape that is cut at the end of a piece, such as -Infinity or \ud83d, is shorter.
# So an error this close to the end of a piece may only mean that the word continues in the next piece.
_LONGEST_WORD = 16
_EXPECTED = "expected a list of objects, or an object on each line"
_LONGEST_ROW = 1 << 30  # maximum characters of a row, because a small gzip file can inflate to more than the memory


class _RepeatedKey(Exception):
    """An object has a key more than once. By default, JSON decoders silently keep only the key's last value."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        [(key, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _RepeatedKey(key)
    return found


# The hook finds repeated keys. Reading the captions of a row of 250 characters takes 9.5 µs; 0.7 µs are for the hook.
_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def json_rows(source: Path) -> Iterator[tuple[Any, int]]:
    """All values in ``source`` (normally one object per row), each with its length in characters.

    If the file's first character is "[", the file is one list of values. If it is "{", the file has objects one after
    another, usually one per line.
    """
    with reading(source) as stream:
        yield from _Values(source, stream).all()


class _Values:
    """Reads a file in pieces, because a line may be gigabytes long. ``_text[_at:]`` is the text that is not parsed yet.

    No JSON library can replace this class. DuckDB's read_json_objects refuses lone surrogates and reads an empty file
    as a list. ijson replaces lone surrogates, and its memory grows with the square of the nesting depth. ijson also
    refuses numbers over 64 bits, except in a mode that reads all fractions as Decimal and is no faster than this class.
    orjson and msgspec do not stream.
    """

    def __init__(self, source: Path, stream: BinaryIO) -> None:
        self._source = source
        self._stream = stream
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1  # number of the file's line in which ``_text`` begins
        self._row = 0

    def all(self) -> Iterator[tuple[Any, int]]:
        is_list_name = format_of(self._source).kind == "json"
        first = self._peek()
        if first == "[":
            yield from self._list()
        elif first == "{":
            yield from self._objects(refuse_one=is_list_name)
        elif first or is_list_name:
            found = f"is not valid JSON: it starts with {first!r}" if first else "is empty"
            raise InputError(f"{self._source} {found}; {_EXPECTED}")

    def _list(self) -> Iterator[tuple[Any, int]]:
        self._at += 1
        if closed := self._peek() == "]":
            self._at += 1
        while not closed:
            self._peek()
            yield self._value()
            closed = self._take(",]") == "]"
        if self._peek():
            raise self._invalid("expected the end of the file after the list", self._at)

    def _objects(self, *, refuse_one: bool) -> Iterator[tuple[Any, int]]:
        while self._peek():
            value = self._value()
            # If a .json file is one object, its rows are somewhere in this object. The object itself is not a row.
            if refuse_one and self._row == 1 and not self._peek():
                raise InputError(f"{self._source} contains one object; {_EXPECTED}")
            yield value

    def _value(self) -> tuple[Any, int]:
        """The value that starts at ``_at``."""
        self._row += 1
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                # If the value ends near the end of the text, read more text: "0." may be the start of "0.5".
                if end <= len(self._text) - _LONGEST_WORD or not self._read():
                    length, self._at = end - self._at, end
                    return value, length
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD
                if not (cut and self._read()):
                    raise self._invalid(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._invalid(str(error), self._at) from error
            except _RepeatedKey as error:
                raise InputError(
                    f"{self._where(self._at)} has the key {str(error)!r:.60} more than once: rename or drop all but one"
                ) from error

    def _peek(self) -> str:
        """Move ``_at`` to the next character that is not a space. Return the character, or "" at the end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def _take(self, expected: str) -> str:
        """Step over the next character, which must be one of ``expected``."""
        character = self._peek()
        if not character or character not in expected:
            raise self._invalid(f"expected {' or '.join(expected)} after the value", self._at)
        self._at += 1
        return character

    def _read(self) -> bool:
        """Read a piece at least as long as the unparsed text, so that a long value is parsed only a few times.

        Returns False at the end of the file.
        """
        unparsed = len(self._text) - self._at
        if unparsed > _LONGEST_ROW:
            raise InputError(
                f"{self._source}, row {self._row} is longer than {_LONGEST_ROW:,} characters: split this row"
            )
        piece = self._stream.read(max(_PIECE, unparsed))
        try:
            more = self._utf8.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            byte = self._stream.tell() - len(error.object) + error.start
            raise InputError(f"{self._source} is not UTF-8 at byte {byte}: {error.reason}; save it as UTF-8") from error
        if piece:
            self._line += self._text.count("\n", 0, self._at)
            self._text = self._text[self._at :] + more
            self._at = 0
        return bool(piece)

    def _invalid(self, problem: str, at: int) -> InputError:
        found = repr(self._text[at : at + 40]) if at < len(self._text) else "the end of the file"
        return InputError(f"{self._where(at)} is not valid JSON: {problem}, found {found}")

    def _where(self, at: int) -> str:
        line = self._line + self._text.count("\n", 0, at)
        return f"{self._source}, row {self._row} (line {line})"
