"""People's judgements of captions: whether a researcher would train on them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import insert

from capsfusion_tasks.errors import InputError
from capsfusion_tasks.warehouse.caption_tables import fused_captions, judgements, rejected_captions


@dataclass(frozen=True)
class Judgement:
    """A judgement of a caption. ``outdated``: the pair has another caption now, for example because of a replay."""

    judged_by: str
    verdict: str  # one of JUDGEMENTS
    note: str
    judged_at: datetime
    outdated: bool = False


class ReplacedCaption(InputError):
    """The caption that a person has judged is not the one that the warehouse has now."""


def judge(
    connection: Connection,
    pair_id: UUID,
    fusion_id: str,
    judged_by: str,
    verdict: str,
    note: str,
    *,
    shown: str | None = None,
) -> bool:
    """Record a judgement in place of an earlier one by the same person. Returns False if the caption does not exist.

    The judgement includes the judged texts, because the caption may be replaced later, for example by a replay.
    ``shown``: the caption that the person has read. Raises ReplacedCaption if the warehouse has another caption now.
    If ``shown`` is None, this is not checked.
    """
    for captions in (fused_captions, rejected_captions):
        column = captions.c
        judged = connection.execute(
            select(column.laion_2b, column.laion_coco, column.capsfusion).where(
                column.pair_id == pair_id, column.fusion_id == fusion_id
            )
        ).one_or_none()
        if judged is not None:
            break
    else:
        return False
    if shown is not None and shown != judged.capsfusion:
        raise ReplacedCaption(
            "the judgement was not saved, because another caption of this pair has been loaded after the one that you"
            " saw: open the pair again, and judge the new caption"
        )
    values = {**judged._mapping, "verdict": verdict, "note": note, "judged_at": func.now()}
    key = {"pair_id": pair_id, "fusion_id": fusion_id, "judged_by": judged_by}
    statement = insert(judgements).values(**key, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=list(key), set_=values))
    return True


def withdraw(connection: Connection, pair_id: UUID, fusion_id: str, judged_by: str) -> None:
    """Delete this person's judgement of the caption, if there is one."""
    mine = judgements.c
    connection.execute(
        delete(judgements).where(mine.pair_id == pair_id, mine.fusion_id == fusion_id, mine.judged_by == judged_by)
    )


def judgements_of(
    connection: Connection, captions: Collection[tuple[UUID, str, str]]
) -> dict[tuple[UUID, str], list[Judgement]]:
    """The judgements of ``captions`` (pair_id, fusion_id, caption), the newest first."""
    texts = {(pair_id, fusion_id): caption for pair_id, fusion_id, caption in captions}
    if not texts:
        return {}
    column = judgements.c
    rows = connection.execute(
        select(judgements)
        .where(tuple_(column.pair_id, column.fusion_id).in_(list(texts)))
        .order_by(column.judged_at.desc(), column.judged_by)
    )
    found: dict[tuple[UUID, str], list[Judgement]] = {}
    for row in rows:
        key = (row.pair_id, row.fusion_id)
        outdated = row.capsfusion != texts[key]
        found.setdefault(key, []).append(Judgement(row.judged_by, row.verdict, row.note, row.judged_at, outdated))
    return found
