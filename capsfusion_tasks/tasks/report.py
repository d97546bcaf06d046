"""Reports: numbers of shards, rows, pairs and captions, and why captions were rejected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sqlalchemy import Connection

from capsfusion_tasks.errors import first_lines, printable
from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Replay
from capsfusion_tasks.warehouse import fusions, plans, quarantine, queries
from capsfusion_tasks.warehouse.plans import PlannedPairs
from capsfusion_tasks.warehouse.queries import Rescued, RunSummary, Scope, SideSummary
from capsfusion_tasks.warehouse.rejections import reasons_line, rejected_count
from capsfusion_tasks.warehouse.replacements import is_unfinished


@dataclass(frozen=True)
class Report:
    """Counts of a run, of an interval, or of the whole warehouse.

    ``failures`` has a line for each failed shard and each failed unit.
    """

    sides: dict[str, SideSummary]
    units: dict[str, int]
    summary: RunSummary
    reasons: dict[str, int]
    rescued: Rescued  # accepted captions that are not from the best beam
    failures: list[str]
    unplanned: int = 0  # number of pairs that are in no unit and can be fused
    unreplaced: int = 0  # number of pairs that a run with existing = replace has not replaced yet
    fused_again: int = 0  # number of rejected captions that a replay fused or validated again
    replayed: int = 0  # number of the captions in ``fused_again`` that passed and are now accepted
    found: PlannedPairs | None = None  # sums of the counts of all plans; None if nothing was planned
    in_quarantine: int = 0  # number of rejected captions that ``reasons`` counts
    models: tuple[str, ...] = ()  # descriptions of the models and settings that the units were planned with
    whole: RunSummary | None = None  # summary of all runs of the interval; None if no other run has units
    left_out: str = ""  # message about pairs that were left out because their URL has too many pairs

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), **_texts(self)}

    @property
    def headline(self) -> str:
        """The result in one line: ``99 accepted, 2 rejected, 3.1 captions/s``."""
        total = self.summary
        if not total.units:
            return "nothing new to fuse" if self.sides else "no shards in this interval"
        return _headline(f"{total.accepted} accepted", f"{total.rejected} rejected", total)

    @property
    def lines(self) -> list[str]:
        lines = [
            f"{side}: {count.shards} shards ({count.pulled} pulled, {count.failed} failed), {count.rows} rows"
            f"{', dropped ' if count.dropped else ''}{_counts(count.dropped)}"
            for side, count in self.sides.items()
        ] or ["no shards"]
        total = self.summary
        if self.found:
            found, known = self.found.pairs, self.found.already_fused
            # A plan with a limit does not read all pairs, so it does not count unread pairs whose images are gone.
            least = "at least " if self.found.left > self.unplanned else ""
            gone = f", {least}{self.found.gone} left out because their images are gone" if self.found.gone else ""
            lines.append(f"found: {found} pairs, {known} of them already fused or in other units{gone}")
        if self.left_out:
            lines.append(self.left_out)
        units = _counts({state: count for state, count in self.units.items() if count})
        lines.append(f"units: {units or 'none, there was nothing new to fuse'}")
        if total.units:
            lines.append(
                f"pairs: {total.rows_in} = {total.accepted} accepted + {total.rejected} rejected"
                f" + {total.waiting} waiting{_replaced(total)}"
            )
        if self.whole:
            lines.append(
                f"interval: {self.whole.accepted} accepted + {self.whole.rejected} rejected in all runs of the"
                f" interval{_replaced(self.whole)}"
            )
        if self.unplanned:
            lines.append(
                f"left: {self.unplanned} pairs that are in no unit, because of a limit or because a run has at most"
                " 1,024 units; run the interval again to fuse them"
            )
        if self.unreplaced:
            # The plan has not read these pairs. If the image of a pair is gone, the pair keeps its caption.
            most = "at most " if "image_results" in self.sides else ""
            lines.append(
                f"left: {most}{self.unreplaced} pairs that still have their older captions; to replace them, run the"
                " interval once more with existing: replace"
            )
        if self.reasons:
            lines.append(reasons_line(self.in_quarantine, self.reasons))
        lines += _rescued(self.rescued)
        if self.fused_again:
            lines.append(
                f"replayed: {self.fused_again} rejected captions were fused or validated again in a replay;"
                f" {self.replayed} of them passed"
            )
        lines += [f"model: {model}" for model in self.models]
        return [*lines, *_speed(total)]

    @property
    def text(self) -> str:
        return "\n".join([*self.lines, *first_lines(self.failures)])


@dataclass(frozen=True)
class ReplayReport:
    """Counts of a replay. ``moved``: the number of passed captions that this replay moved to ``fused_captions``."""

    replay_of: str  # fusion_id of the rejected captions
    fusion_id: str  # fusion_id of the captions that the replay made
    units: dict[str, int]
    summary: RunSummary
    moved: int
    reasons: dict[str, int]  # reason → number of captions that were rejected again
    rescued: Rescued  # accepted captions that are not from the best beam
    failures: list[str]
    whole: tuple[int, int] | None = None  # moved and rejected captions of all runs; None if no other run has units

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), **_texts(self)}

    @property
    def headline(self) -> str:
        """The result in one line: ``5 moved, 2 rejected again, 3.1 captions/s``."""
        total = self.summary
        if not total.units:
            return "nothing to replay"
        return _headline(f"{self.moved} moved", f"{total.rejected} rejected again", total)

    @property
    def lines(self) -> list[str]:
        total, whole = self.summary, []
        if self.whole:
            whole = [f"all runs of this replay: {self.whole[0]} moved, {self.whole[1]} are still rejected"]
        if not total.units:
            return [
                f"selected: 0 rejected captions of fusion {self.replay_of}: none match, or all that match are in"
                f" unfinished units or were already tried under fusion {self.fusion_id}; the plan task logs the counts",
                *whole,
            ]
        lines = [
            f"selected: {total.rows_in} rejected captions of fusion {self.replay_of}, in units:"
            f" {_counts({state: count for state, count in self.units.items() if count})}",
            f"moved: {self.moved} passed under fusion {self.fusion_id} and are now in fused_captions",
            f"rejected again: {total.rejected}, in rejected_captions under fusion {self.fusion_id}"
            f"{': ' if self.reasons else ''}{_counts(self.reasons)}",
            *_rescued(self.rescued),
        ]
        if total.accepted != self.moved:
            lines.append(f"also passed: {total.accepted - self.moved} that another replay had already moved")
        lines += whole
        if total.waiting:
            lines.append(f"waiting: {total.waiting} in units that are not loaded")
        return [*lines, *_speed(total)]

    @property
    def text(self) -> str:
        return "\n".join([*self.lines, *first_lines(self.failures)])


def report_replay(
    connection: Connection, replay: Replay, fusion_id: str, unit_ids: Sequence[str] | None = None
) -> ReplayReport:
    """The report of a replay that fuses with ``fusion_id``.

    ``unit_ids``: the units of one run. If given, captions are counted in these units only. If one run rejects a caption
    again, a later run of the replay may select the same caption. A sum over all units would count it several times.
    """
    of_all = Scope(replay=replay.name, fusion_id=fusion_id)
    scope = of_all if unit_ids is None else replace(of_all, unit_ids=unit_ids)
    whole = None
    if unit_ids is not None and queries.run_summary(connection, of_all).units > len(unit_ids):
        whole = quarantine.moved(connection, replay.name, fusion_id), rejected_count(connection, of_all)
    return ReplayReport(
        replay_of=replay.fusion_id,
        fusion_id=fusion_id,
        units=queries.unit_counts(connection, scope),
        summary=queries.run_summary(connection, scope),
        moved=quarantine.moved(connection, replay.name, fusion_id, unit_ids),
        reasons=queries.rejections_by_reason(connection, scope),
        rescued=queries.rescued(connection, scope),
        failures=_failed_units(connection, scope),
        whole=whole,
    )


def report_interval(
    connection: Connection,
    interval: Interval,
    fusion_id: str | None,
    shard_ids: list[str],
    unplanned: int,
    gone: int | None = None,
    left_out: str = "",
    unit_ids: Sequence[str] | None = None,
) -> Report:
    """The report of one interval and one fusion. ``shard_ids``: the interval's shards.

    ``unplanned``: number of pairs that are in no unit and can be fused. ``gone``: number of pairs that are in no unit
    because their images are gone; None if unknown. ``left_out``: a line about pairs that were left out because their
    URL has too many pairs. ``unit_ids``: the units of one run. If given, captions are counted in these units only, and
    pairs in other units of the interval count as already fused.
    """
    scope = Scope(interval=interval, fusion_id=fusion_id)
    report = _report(connection, scope if unit_ids is None else replace(scope, unit_ids=unit_ids), shard_ids)
    whole, found = queries.run_summary(connection, scope), plans.planned_pairs(connection, scope)
    is_left = found is not None and fusion_id is not None and is_unfinished(connection, fusion_id, interval)
    unreplaced = max(0, found.left - unplanned) if found and is_left else 0
    # A plan with a limit counts all unread pairs as ``left``, even fused pairs and pairs whose images are gone. Use the
    # caller's exact counts instead.
    recounted = False
    if found and gone is not None and (found.left or unplanned):
        found, recounted = replace(found, left=unplanned, gone=gone), True
    if found and (recounted or unit_ids is not None):
        fused_before = found.pairs - found.left - found.gone - report.summary.rows_in
        found = replace(found, already_fused=max(0, fused_before))
    whole_if_more = whole if whole.units > report.summary.units else None
    return replace(
        report, unplanned=unplanned, unreplaced=unreplaced, left_out=left_out, found=found, whole=whole_if_more
    )


def report_all(connection: Connection) -> Report:
    """The report of the whole warehouse."""
    return _report(connection, queries.EVERYTHING, None)


def _report(connection: Connection, scope: Scope, shard_ids: list[str] | None) -> Report:
    failures = [
        printable(f"shard {side}/{path} failed: {error}")
        for side, path, error in queries.failed_shards(connection, shard_ids)
    ]
    failures += _failed_units(connection, scope)
    fused_again, replayed = queries.replayed_counts(connection, scope)
    return Report(
        sides=queries.shards_summary(connection, shard_ids),
        units=queries.unit_counts(connection, scope),
        summary=queries.run_summary(connection, scope),
        reasons=queries.rejections_by_reason(connection, scope),
        rescued=queries.rescued(connection, scope),
        failures=failures,
        fused_again=fused_again,
        replayed=replayed,
        found=plans.planned_pairs(connection, scope),
        in_quarantine=rejected_count(connection, scope),
        models=tuple(fusions.descriptions(connection, scope)),
    )


def _texts(report: Report | ReplayReport) -> dict[str, Any]:
    """``text`` is the whole report. ``headline`` and ``lines``, without the failures, are for the note of a DAG run."""
    return {"headline": report.headline, "lines": report.lines, "text": report.text}


def _headline(good: str, bad: str, total: RunSummary) -> str:
    parts = [good, bad]
    if total.waiting:
        parts.append(f"{total.waiting} waiting")
    if total.rows_per_second:
        parts.append(f"{total.rows_per_second:.1f} captions/s")
    return ", ".join(parts)


def _replaced(total: RunSummary) -> str:
    return f"; {total.superseded} of them were replaced later" if total.superseded else ""


def _failed_units(connection: Connection, scope: Scope) -> list[str]:
    return [
        printable(f"unit {unit_id} failed {tries} times; the last error: {error}")
        for unit_id, tries, error in queries.failed_units(connection, scope)
    ]


def _speed(total: RunSummary) -> list[str]:
    if not total.rows_per_second:
        return []
    return [
        f"speed: {total.rows_per_second:.1f} captions/s per device, {total.gpu_seconds:.0f} device seconds,"
        f" {total.prompt_tokens} prompt and {total.caption_tokens} caption tokens"
    ]


def _rescued(rescued: Rescued) -> list[str]:
    if not rescued.captions:
        return []
    return [
        f"rescued: {rescued.captions} captions from other beams were accepted, because the best beam's caption was"
        f" rejected: {_counts(rescued.reasons)}"
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())
