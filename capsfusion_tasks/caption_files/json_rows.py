"""The values of a .json or .jsonl file, one at a time: the file may be larger than the memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from capsfusion_tasks.errors import InputError

_PIECE = 1 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder()
# How far before the end of a piece the parser may stop only because the rest is missing: -Infinity and \ud83d are the
# longest words that can be cut.
_LONGEST_WORD = 16


def json_rows(source: Path) -> Iterator[Any]:
    """Every value of ``source``: of its list (.json) or its lines (.jsonl). Raises InputError where it is broken."""
    with source.open("rb") as stream:
        yield from _List(source, stream).values() if source.suffix == ".json" else _lines(source, stream)


def _lines(source: Path, stream: BinaryIO) -> Iterator[Any]:
    # Lines of bytes end at \n only; str.splitlines() splits at U+2028 too, which may stand in a JSON string.
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            values = [json.loads(text)] if text.strip() else []
        except UnicodeDecodeError as error:
            raise InputError(f"{source}, line {number} is not UTF-8: {error}") from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{source}, line {number} is not valid JSON: {error}") from error
        yield from values


class _List:
    """A list that is read in pieces: ``text[at:]`` is read and not parsed yet. It may be one line of gigabytes.

    DuckDB's read_json_objects streams as well, but it refuses lone surrogates and takes an empty file for a list.
    """

    def __init__(self, source: Path, stream: BinaryIO) -> None:
        self._source = source
        self._stream = stream
        self._utf8 = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        self._line = 1  # of the text's first character
        self._row = 0

    def values(self) -> Iterator[Any]:
        if (first := self._peek()) != "[":
            found = {"": "is empty", "{": "holds one object"}.get(first, f"is not valid JSON: it starts with {first!r}")
            raise InputError(f"{self._source} {found}; expected a list of objects (.jsonl: an object on each line)")
        self._at += 1
        if closed := self._peek() == "]":
            self._at += 1
        while not closed:
            self._row += 1
            yield self._value()
            closed = self._take(",]") == "]"
        if self._peek():
            raise self._invalid("expected nothing behind the list", self._at)

    def _value(self) -> Any:
        self._peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end <= len(self._text) - _LONGEST_WORD or not self._read():  # else 0. may be read as 0
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _LONGEST_WORD
                if not (cut and self._read()):
                    raise self._invalid(error.msg, error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self._invalid(str(error), self._at) from error

    def _peek(self) -> str:
        """The next character that is no space, "" at the end; ``at`` points to it."""
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
            raise self._invalid(f"expected {' or '.join(expected)} behind it", self._at)
        self._at += 1
        return character

    def _read(self) -> bool:
        """Add a piece, at least as long as what is there, so that a huge value is not parsed over and over."""
        piece = self._stream.read(max(_PIECE, len(self._text) - self._at))
        try:
            more = self._utf8.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            byte = self._stream.tell() - len(error.object) + error.start
            raise InputError(f"{self._source} is not UTF-8 at byte {byte}: {error.reason}") from error
        if piece:
            self._line += self._text.count("\n", 0, self._at)
            self._text = self._text[self._at :] + more
            self._at = 0
        return bool(piece)

    def _invalid(self, problem: str, at: int) -> InputError:
        line = self._line + self._text.count("\n", 0, at)
        found = repr(self._text[at : at + 40]) if at < len(self._text) else "the end of the file"
        return InputError(f"{self._source}, row {self._row} (line {line}) is not valid JSON: {problem}, found {found}")
