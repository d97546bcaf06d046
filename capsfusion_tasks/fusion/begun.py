"""Records the decoding settings and the files of a ``capsfusion fuse IN OUT`` run. A retry reads this record.

The record is in the folder ``<OUT>.parts`` (``parts_folder.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from capsfusion_tasks.caption_files.inputs import InOut
from capsfusion_tasks.decoding import KNOBS, Decoding
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.locations import parts_path
from capsfusion_tasks.staging.storage import Storage

_NAME = "begun.json"


class Begun(BaseModel):
    """The record of a run.

    ``files``: paths of the outputs, in the order in which their rows are numbered. Paths are relative to the folder
    OUT. If OUT is a file, ``files`` has only its name. ``written``: the outputs that the run may have written. An
    existing output that is not in ``written`` is not from this run.
    """

    model_config = ConfigDict(frozen=True)

    decoding: Decoding
    files: tuple[str, ...]
    written: tuple[str, ...] = ()


def is_begun(out: Path) -> bool:
    """Whether an earlier try for ``out`` has started and not finished."""
    return (parts_path(out) / _NAME).exists()


def read(parts: Path) -> Begun | None:
    """The record in ``parts``. None if no try has started, or if the try ran in an old release without records."""
    file = parts / _NAME
    return Begun.model_validate_json(file.read_bytes()) if file.exists() else None


def write(parts: Path, decoding: Decoding, out: Path, files: Sequence[InOut], written: Iterable[InOut]) -> None:
    all_places, written_places = (tuple(_place(each, out) for each in some) for some in (files, written))
    begun = Begun(decoding=decoding, files=all_places, written=written_places)
    Storage(str(parts)).write_json(_NAME, begun.model_dump(mode="json"))


def require_same_decoding(begun: Begun, decoding: Decoding, parts: Path) -> None:
    """Raise InputError if the rows in ``parts`` were fused with other settings. ``begun``: the record in ``parts``."""
    before, now = begun.decoding, decoding
    if before.fusion_id == now.fusion_id:
        return
    differing = [
        f"{name} {getattr(before, name)}, now {getattr(now, name)}"
        for name in ("model", "dtype", *KNOBS)
        if getattr(before, name) != getattr(now, name)
    ]
    raise InputError(
        f"{parts} has rows of an earlier try with other settings"
        f" ({'; '.join(differing) or f'another version of {now.model} or of the prompt'}):"
        " use the earlier settings again to continue, or discard the rows with --no-resume"
    )


def in_order(begun: Begun, files: list[InOut], out: Path) -> tuple[list[InOut], list[InOut]]:
    """The files of the earlier try, in their recorded order, and the new files.

    Raises InputError if ``files`` lacks a file of the earlier try. Rows are numbered over all files, so adding or
    removing a file would change the row numbers of all files after it.
    """
    by_place = {_place(each, out): each for each in files}
    if missing := [place for place in begun.files if place not in by_place]:
        raise InputError(
            f"the earlier try fused {missing[0]}{f' and {len(missing) - 1} more files' * (len(missing) > 1)}, which IN"
            " does not include now: give the same files again to continue, or discard the earlier rows with --no-resume"
        )
    kept = [by_place.pop(place) for place in begun.files]
    return kept, list(by_place.values())


def written(begun: Begun, files: Iterable[InOut], out: Path) -> set[InOut]:
    """Those ``files`` whose outputs the earlier try may have written."""
    places = set(begun.written)
    return {each for each in files if _place(each, out) in places}


def _place(each: InOut, out: Path) -> str:
    return each.target.name if each.target == out else each.target.relative_to(out).as_posix()
