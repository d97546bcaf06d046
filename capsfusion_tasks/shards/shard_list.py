"""The list of an interval's shards, with the sources and patterns that it was made from."""

from __future__ import annotations

from typing import Any, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from capsfusion_tasks.staging.summaries import Summaries


class Origin(BaseModel):
    """The source and the patterns from which the shards of a side (such as LAION-2B) were listed."""

    model_config = ConfigDict(frozen=True)

    uri: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __str__(self) -> str:
        patterns = ", ".join([*self.include, *(f"not {pattern}" for pattern in self.exclude)])
        return f"{self.uri} ({patterns})" if patterns else self.uri


class ShardList(BaseModel):
    """The list of an interval's shards.

    ``frozen``: the list was made after the interval's end. ``empty``: sides whose source had no shard at all.
    """

    frozen: bool
    shards: list[Shard]
    sources: dict[Side, Origin] | None = None  # None: an older version wrote the list
    empty: tuple[Side, ...] = ()

    @property
    def readable(self) -> list[Shard]:
        return [shard for shard in self.shards if not shard.problem]

    @property
    def unreadable(self) -> list[Shard]:
        return [shard for shard in self.shards if shard.problem]

    @property
    def is_frozen(self) -> bool:
        """Whether a rerun of the interval uses this list instead of listing the sources again."""
        return self.frozen and bool(self.readable)

    @property
    def is_closed(self) -> bool:
        """Whether shards of the interval count as late if they appear from now on. An empty list can also be closed."""
        return self.frozen and (bool(self.readable) or not self.shards)

    @property
    def incomplete(self) -> set[Side]:
        """The sides that the next ``discover`` lists again, because they have no shards or some unreadable shards."""
        return {*self.empty, *(shard.side for shard in self.unreadable)}

    def made_from(self, now: dict[Side, Origin]) -> dict[Side, Origin]:
        return ListSummary.of(self).made_from(now)


class ListSummary(BaseModel):
    """The parts of an interval's shard list that other intervals need to find late shards.

    ``closed``: the value of ``ShardList.is_closed``. ``uris``: side → URI of its source.
    """

    closed: bool = Field(validation_alias=AliasChoices("closed", "frozen"))  # "frozen": the name in older versions
    shard_ids: list[str]
    uris: dict[Side, str]
    sources: dict[Side, Origin] | None
    empty: tuple[Side, ...]

    @classmethod
    def of(cls, listed: ShardList) -> Self:
        return cls(
            closed=listed.is_closed,
            shard_ids=[shard.shard_id for shard in listed.shards],
            uris={shard.side: shard.source for shard in listed.shards},
            sources=listed.sources,
            empty=listed.empty,
        )

    def made_from(self, now: dict[Side, Origin]) -> dict[Side, Origin]:
        """The sources and patterns from which the list was made.

        Older versions recorded only the URI of each shard. The patterns of their lists count as unchanged.
        """
        if self.sources is not None:
            return self.sources
        return now | {
            side: now.get(side, Origin(uri="")).model_copy(update={"uri": uri}) for side, uri in self.uris.items()
        }


def intervals(storage: Storage) -> list[Interval]:
    """The intervals that have a folder in the staging area, because discovery has listed their shards."""
    return [Interval.from_key(key) for key in storage.folders(layout.RUNS)]


def read(interval: Interval, storage: Storage) -> ShardList | None:
    path = layout.discovered(interval)
    return ShardList.model_validate(storage.read_json(path)) if storage.exists(path) else None


def lists_of_others(interval: Interval, storage: Storage) -> dict[Interval, ListSummary]:
    """Summaries of the shard lists of all other intervals. Opens only lists that are newer than the stored summary."""

    def summary(key: str) -> Any:
        listed = read(Interval.from_key(key), storage)
        return ListSummary.of(listed).model_dump(mode="json") if listed else None  # None: nothing is listed yet

    keys = [one.key for one in intervals(storage) if one != interval]
    facts = _summaries(storage).facts(keys, summary)
    return {Interval.from_key(key): ListSummary.model_validate(fact) for key, fact in facts.items() if fact}


def _summaries(storage: Storage) -> Summaries:
    return Summaries(storage, layout.LISTS_SUMMARY)


def write(interval: Interval, storage: Storage, listed: ShardList) -> None:
    _summaries(storage).note_change(interval.key)
    storage.write_json(layout.discovered(interval), listed.model_dump(mode="json"))


def told(these: dict[Side, Origin], others: dict[Side, Origin]) -> str:
    """Text for messages: the sources in ``these`` that differ from those in ``others``, such as "laion_2b /data"."""
    differing = [f"{side} {origin}" for side, origin in these.items() if origin != others.get(side)]
    return " and ".join([*differing, *(f"no {side}" for side in others if side not in these)])
