"""The table ``fusions``: the decoding settings of each fusion_id.

Rows that earlier versions of the project wrote are incomplete. These versions hashed only the start and the end of each
weight file, and did not record which dtype ``auto`` meant. ``adopt`` completes such a row, so that its captions are not
fused again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects.postgresql import insert

from capsfusion_tasks.decoding import BUNDLED, Decoding, described
from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.ledger_tables import fusions, work_units
from capsfusion_tasks.warehouse.queries import Scope

_DECODING = "decoding"  # the key in the column ``spec`` under which the whole Decoding is stored
# Columns that earlier versions of this project filled in correctly. A fusion that differs in one of them certainly has
# other decoding settings.
_CERTAIN = ("prompt_digest", "tokenizer_digest", "engine", "num_beams", "max_new_tokens")


@dataclass(frozen=True)
class EarlierFusion:
    """A fusion that an earlier version recorded incompletely, and whose settings may equal the current ones.

    If they are equal, `capsfusion adopt` can complete the record, so that the fusion's pairs are not fused again.
    ``rows``: number of the fusion's loaded rows.
    """

    fusion_id: str
    rows: int


def register(connection: Connection, decoding: Decoding, about: Mapping[str, Any]) -> None:
    """Record decoding settings, with further facts ``about`` them. Does nothing if the fusion_id already has a row."""
    row = {name: value for name, value in decoding.model_dump().items() if name in fusions.columns}
    connection.execute(insert(fusions).on_conflict_do_nothing(), {**row, "spec": _spec(decoding, about)})


def _spec(decoding: Decoding, about: Mapping[str, Any]) -> dict[str, Any]:
    return {**about, _DECODING: decoding.model_dump(mode="json")}


def all_ids(connection: Connection) -> list[str]:
    """The ids of all fusions, sorted. Complete: planning registers a fusion before it writes any file of the fusion."""
    return list(connection.scalars(select(fusions.c.fusion_id).order_by(fusions.c.fusion_id)))


def descriptions(connection: Connection, scope: Scope) -> list[str]:
    """Describe the model and settings of each fusion that the units in ``scope`` use: one line each, newest last."""
    units = select(work_units.c.fusion_id).where(scope.clause())
    statement = select(fusions).where(fusions.c.fusion_id.in_(units)).order_by(fusions.c.created_at)
    return [
        described(
            fusion_id=row.fusion_id,
            model=row.model,
            engine=row.engine,
            dtype=row.dtype,
            num_beams=row.num_beams,
            max_new_tokens=row.max_new_tokens,
            bundled=row.spec.get(_DECODING, {}).get("location") == BUNDLED,
            own_prompt=row.spec.get(_DECODING, {}).get("prompt") is not None,
        )
        for row in connection.execute(statement)
    ]


def decoding_of(connection: Connection, fusion_id: str) -> Decoding:
    """The decoding settings of a fusion_id. Raises InputError if the ledger has no complete settings."""
    spec = connection.scalar(select(fusions.c.spec).where(fusions.c.fusion_id == fusion_id))
    if spec is None:
        raise InputError(f"the ledger has no fusion {fusion_id}; plan its units again")
    if _DECODING not in spec:
        raise InputError(
            f"fusion {fusion_id} was recorded by an earlier version, without its dtype and its model's digest. Run"
            f" `capsfusion adopt {fusion_id}` with the settings that it was planned with, then try again"
        )
    return Decoding.model_validate(spec[_DECODING])


def keeps_beams(connection: Connection, fusion_id: str) -> bool:
    """Whether the fusion keeps all captions that a beam search finishes, not only the best one."""
    kept = fusions.c.spec[_DECODING]["keep_beams"].as_boolean()
    return bool(connection.scalar(select(kept).where(fusions.c.fusion_id == fusion_id)))


def as_recorded(connection: Connection, decoding: Decoding) -> Decoding:
    """``decoding`` with the fusion_id of equal settings in the ledger. Unchanged if the ledger has no equal settings.

    An incomplete row of an earlier version counts as equal if three conditions are met: (1) none of the row's values
    differs from ``decoding``; (2) the row has the commit of a hub model, and a dtype other than auto; (3) the model has
    only one EOS token, because earlier versions ignored all EOS tokens but the first. This function completes such a
    row.
    """
    same_model = fusions.c.model_digest == decoding.model_digest
    for row in connection.execute(select(fusions).where(same_model).order_by(fusions.c.created_at)):
        if _DECODING in row.spec:
            equal = Decoding.model_validate(row.spec[_DECODING]).shape == decoding.shape
        else:
            equal = row.dtype == decoding.dtype and len(decoding.eos_ids) == 1 and not _differing(row, decoding)
            if equal:
                _complete(connection, row, decoding)
        if equal:
            return decoding.model_copy(update={"fusion_id": row.fusion_id})
    return decoding


def earlier(connection: Connection, decoding: Decoding) -> list[EarlierFusion]:
    """Fusions of earlier versions whose incomplete records do not contradict ``decoding``."""
    rows = func.coalesce(func.sum(work_units.c.rows_in).filter(work_units.c.state == "loaded"), 0).label("rows")
    statement = (
        select(fusions, rows)
        .join(work_units, work_units.c.fusion_id == fusions.c.fusion_id)
        .where(fusions.c.model == decoding.model, fusions.c.dtype.in_(("auto", decoding.dtype)))
        .group_by(fusions.c.fusion_id)
        .order_by(fusions.c.fusion_id)
    )
    return [
        EarlierFusion(row.fusion_id, int(row.rows))
        for row in connection.execute(statement)
        if _DECODING not in row.spec and not _differing(row, decoding)
    ]


def adopt(connection: Connection, fusion_id: str, decoding: Decoding) -> None:
    """Complete a row of an earlier version with ``decoding``. Raises InputError if the row contradicts ``decoding``."""
    row = connection.execute(select(fusions).where(fusions.c.fusion_id == fusion_id)).one_or_none()
    if row is None:
        raise InputError(f"the ledger has no fusion {fusion_id}: give a fusion_id from the table fusions")
    if _DECODING in row.spec:
        raise InputError(f"fusion {fusion_id} already records all its settings: there is nothing to adopt")
    differing = _differing(row, decoding)
    if row.dtype not in ("auto", decoding.dtype):
        differing.append(f"dtype {row.dtype} (now {decoding.dtype})")
    if differing:
        raise InputError(
            f"fusion {fusion_id} was made with other settings: {', '.join(differing)}; run `capsfusion"
            f" adopt {fusion_id}` with the settings that it was made with"
        )
    _complete(connection, row, decoding)


def _differing(row: Row[Any], decoding: Decoding) -> list[str]:
    recorded = {**{name: getattr(row, name) for name in _CERTAIN}, "keep_beams": False}
    return [
        f"{name} {value} (now {getattr(decoding, name)})"
        for name, value in recorded.items()
        if value != getattr(decoding, name)
    ]


def _complete(connection: Connection, row: Row[Any], decoding: Decoding) -> None:
    named = decoding.model_copy(update={"fusion_id": row.fusion_id})
    values = {"model_digest": named.model_digest, "dtype": named.dtype, "spec": _spec(named, row.spec)}
    connection.execute(update(fusions).where(fusions.c.fusion_id == row.fusion_id).values(values))
