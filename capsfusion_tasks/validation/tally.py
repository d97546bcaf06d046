"""Counts rows by reason and flag, collects examples, and formats counts and examples for a terminal or a log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class Example:
    """An example of a reason or flag: a caption with its two sources."""

    raw: str
    synthetic: str
    caption: str


@dataclass
class Tally:
    """Counts of validated rows. A row with two reasons counts for both. The flags of rejected rows also count."""

    rows: int = 0
    accepted: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    rescued: int = 0  # accepted rows in which another caption of the beam search replaced a rejected one
    examples: dict[str, list[Example]] = field(default_factory=dict)  # reason or flag → its examples
    examples_max: int = 1

    @property
    def rejected(self) -> int:
        return self.rows - self.accepted

    @property
    def share(self) -> float:
        """The share of rejected rows. 0 if there are no rows."""
        return self.rejected / self.rows if self.rows else 0.0

    def add(self, judged: pa.Table, caption_column: str = "capsfusion") -> Tally:
        """Count the rows of a table that ``validate_table`` made."""
        reasons, flags = judged["reasons"].to_pylist(), judged["flags"].to_pylist()
        if "rescued_from" in judged.column_names:
            self.rescued += judged.num_rows - judged["rescued_from"].null_count
        self.rows += len(reasons)
        self.accepted += sum(not row for row in reasons)
        self.reasons.update(reason for row in reasons for reason in row)
        self.flags.update(flag for row in flags for flag in row)
        self._collect(judged, caption_column, [[*a, *b] for a, b in zip(reasons, flags, strict=True)])
        return self

    def _collect(self, judged: pa.Table, caption_column: str, codes: list[list[str]]) -> None:
        columns = [judged[name] for name in ("laion_2b", "laion_coco", caption_column)]
        for row, found in enumerate(codes):
            for code in found:
                examples = self.examples.setdefault(code, [])
                if len(examples) < self.examples_max:
                    examples.append(Example(*(str(column[row].as_py() or "") for column in columns)))

    def lines(self) -> Iterator[str]:
        """A line for each reason, most frequent first: number of rows, share of all rows, beginning of an example."""
        width = max((len(reason) for reason in self.reasons), default=0)
        for reason, rows in self.reasons.most_common():
            example = self.examples[reason][0].caption
            yield f"{reason:{width}}  {rows:7}  {rows / self.rows:7.2%}  {_shown(example)}"


def _shown(text: str) -> str:
    """The beginning of ``text``, on one line, without control characters."""
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return shown if len(shown) <= SHOWN_CHARACTERS else shown[: SHOWN_CHARACTERS - 1] + "…"
