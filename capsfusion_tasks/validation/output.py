"""Writes a copy of a caption file with added columns: the verdicts of validation on each caption.

The ending of the copy's name determines the copy's format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from capsfusion_tasks.caption_files import check_writable
from capsfusion_tasks.caption_files.base import CaptionFile
from capsfusion_tasks.caption_files.formats import Format, format_of
from capsfusion_tasks.caption_files.writing import encoded, publish_text
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.schemas import SCORES
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.validation.validate import JUDGED

Verdict = tuple[Any, ...]  # one value for each column of ``JUDGED``


def check_outputs(source: Path, out: Path | None, report: Path | None, *, overwrite: bool) -> None:
    """Raise InputError if the file ``out`` or the file ``report`` cannot be written.

    Examples: its name has a wrong ending; the file is ``source``; the file exists, and ``overwrite`` is false.
    """
    if out:
        format_of(out, write=True)
        check_writable(out, overwrite=overwrite, but=source)
    if report:
        if report.suffix != ".html":
            raise InputError(f"cannot write the report to {report}: its name must end in .html")
        check_writable(report, overwrite=overwrite, but=source)


def check_columns(source: CaptionFile) -> None:
    """Raise InputError if verdicts would replace columns of ``source`` that contain something other than verdicts.

    If ``source`` has all columns of ``SCORES``, these columns contain verdicts of an earlier validation and may be
    replaced. Captions that were exported with all columns are an example. Reads the whole file if it is JSON.
    """
    names = set(source.names)
    if (found := [name for name in JUDGED.names if name in names]) and not names.issuperset(SCORES.names):
        raise InputError(
            f"{source.source} has its own columns {', '.join(found)}: rename or drop them, because --out adds columns"
            " with these names"
        )


def write_verdicts(target: Path, source: CaptionFile, verdicts: Iterable[Verdict]) -> None:
    """Write ``target``: the columns of ``source`` in their order, then the columns of ``JUDGED`` with the new verdicts.

    If ``source`` has columns of ``JUDGED``, they are left out, because they contain older verdicts (the caller has
    ensured this with ``check_columns``). ``verdicts`` has one verdict for each row. The file appears complete or not at
    all.
    """
    form = format_of(target, write=True)
    if form.kind == "parquet":
        # A JSON file without rows has no column names. In this case, write the columns that the user named.
        found = source.schema if source.schema.names else pa.schema([(name, pa.string()) for name in source.columns])
        kept = pa.schema([field for field in found if field.name not in JUDGED.names], found.metadata)
        schema = pa.schema([*kept, *JUDGED], kept.metadata)
        storage = Storage(str(target.absolute().parent))
        storage.write_tables(target.name, schema, _tables(source, kept.names, verdicts))
    else:
        publish_text(target, form, _text(source, form, verdicts))


def _tables(source: CaptionFile, kept: list[str], verdicts: Iterable[Verdict]) -> Iterator[pa.Table]:
    left = iter(verdicts)
    with source.unchanged():
        for table in source.tables():
            columns = list(zip(*islice(left, table.num_rows), strict=True)) or [()] * len(JUDGED)
            table = table.select(kept)
            for field, values in zip(JUDGED, columns, strict=True):
                table = table.append_column(field, pa.array(values, field.type))
            yield table


def _text(source: CaptionFile, form: Format, verdicts: Iterable[Verdict]) -> Iterator[bytes]:
    def names() -> list[str]:
        return [*(name for name in source.names or source.columns if name not in JUDGED.names), *JUDGED.names]

    with source.unchanged():
        yield from encoded(source, form, _rows(source, verdicts), names)


def _rows(source: CaptionFile, verdicts: Iterable[Verdict]) -> Iterator[dict[str, Any]]:
    for row, verdict in zip(source.rows(), verdicts, strict=True):
        kept = {name: value for name, value in row.items() if name not in JUDGED.names}
        yield {**kept, **dict(zip(JUDGED.names, verdict, strict=True))}
