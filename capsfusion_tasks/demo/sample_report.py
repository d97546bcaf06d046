"""The report of a sample: its parameters, and what a run must find in it. ``sample_data.py`` writes samples."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import PAIRED, Side

EXPECTED = "EXPECTED.json"  # the report's file in the folder of the sample
FOLDER: dict[Side, str] = {"laion_2b": "laion-2b", "laion_coco": "laion-coco"}
REASONS = ("null_url", "null_caption", "unsafe", "watermarked")
SIDES: tuple[Side, ...] = PAIRED
_ADVICE = "name another folder for the sample, or delete this folder first"


class SampleParameters(BaseModel):
    """The parameters of a sample. The same parameters give the same files."""

    model_config = ConfigDict(frozen=True)

    rows_per_day: int
    days: int
    first_day: date
    shards_per_side_per_day: int
    seed: int
    copies: int = 1
    unmatched: int = 0

    def copies_on(self, side: Side) -> int:
        """How many copies of each row the files of ``side`` have. Each copy has a different URL."""
        return self.copies * (1 + self.unmatched if side == "laion_2b" else 1)


class SideCounts(BaseModel):
    """Counts of the shards of one side and one day. ``dropped``: reason → number of rows that a run must drop."""

    model_config = ConfigDict(frozen=True)

    shards: int
    rows: int
    dropped: dict[str, int]


class DayCounts(BaseModel):
    model_config = ConfigDict(frozen=True)

    day: date
    laion_2b: SideCounts
    laion_coco: SideCounts
    pairs: int  # number of pairs that the run of this day finds, if the days run in order


class SampleReport(BaseModel):
    """What the sample contains, and how many pairs a run over all days must find."""

    model_config = ConfigDict(frozen=True)

    parameters: SampleParameters
    days: list[DayCounts]
    pairs: int
    cases: dict[str, int]  # how often each case of edge_cases.py occurs in one copy
    files: dict[str, datetime]  # path in the folder → arrival time, which is the file's modification time

    def to_json(self) -> str:
        return self.model_dump_json(indent=1) + "\n"

    def table(self) -> Table:
        """The counts as a table for a terminal."""
        table = Table(title=f"Sample shards: {self.pairs} pairs to find")
        for heading in ("day", "side", "shards", "rows", *REASONS, "pairs"):
            table.add_column(heading, justify="left" if heading in ("day", "side") else "right")
        for day in self.days:
            for side in SIDES:
                counts: SideCounts = getattr(day, side)
                first = side == SIDES[0]
                table.add_row(
                    day.day.isoformat() if first else "",
                    FOLDER[side],
                    *(str(n) for n in (counts.shards, counts.rows, *(counts.dropped[reason] for reason in REASONS))),
                    str(day.pairs) if first else "",
                    end_section=not first,
                )
        return table


def read_report(root: Path, parameters: SampleParameters | None = None) -> SampleReport | None:
    """The report of the sample in ``root``. None if the folder is empty or missing.

    Raises InputError if the folder has no sample, or a sample with other ``parameters``.
    """
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / EXPECTED).is_file():
        raise InputError(
            f"{root} is not empty and holds no sample (it has no {EXPECTED}): name a new or an empty folder"
        )
    try:
        report = SampleReport.model_validate_json((root / EXPECTED).read_bytes())
    except ValidationError as error:
        raise InputError(f"{root / EXPECTED} was not written by capsfusion sample-data: {_ADVICE}") from error
    if parameters and report.parameters != parameters:
        raise InputError(
            f"{root} holds another sample ({_listed(report.parameters)}; requested: {_listed(parameters)}): {_ADVICE}"
        )
    return report


def _listed(parameters: SampleParameters) -> str:
    return ", ".join(f"{name} {value}" for name, value in parameters)
