"""The list of an interval's shards, with the sources and patterns it was made from."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from capsfusion_tasks.intervals import Interval
from capsfusion_tasks.schemas import Shard, Side
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage


class Origin(BaseModel):
    """The source and the patterns from which a side's shards were listed."""

    model_config = ConfigDict(frozen=True)

    uri: str
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __str__(self) -> str:
        patterns = ", ".join([*self.include, *(f"not {pattern}" for pattern in self.exclude)])
        return f"{self.uri} ({patterns})" if patterns else self.uri


class ShardList(BaseModel):
    """``frozen``: the interval was over when it was listed. ``empty``: sides without any shard, whenever it arrived."""

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
        return self.frozen and bool(self.readable)

    @property
    def incomplete(self) -> set[Side]:
        """The sides that a later call lists again, because they have no shard, or shards that could not be read."""
        return {*self.empty, *(shard.side for shard in self.unreadable)}

    def made_from(self, now: dict[Side, Origin]) -> dict[Side, Origin]:
        """The sources of the list.

        Older versions recorded only the URI, in each shard; the patterns then count as unchanged.
        """
        if self.sources is not None:
            return self.sources
        return now | {
            shard.side: now.get(shard.side, Origin(uri="")).model_copy(update={"uri": shard.source})
            for shard in self.shards
        }


def intervals(storage: Storage) -> list[Interval]:
    """The intervals that have a folder in the staging area: those that discovery has seen."""
    return [Interval.from_key(key) for key in storage.folders(layout.RUNS)]


def read(interval: Interval, storage: Storage) -> ShardList | None:
    path = layout.discovered(interval)
    return ShardList.model_validate(storage.read_json(path)) if storage.exists(path) else None


def write(interval: Interval, storage: Storage, listed: ShardList) -> None:
    storage.write_json(layout.discovered(interval), listed.model_dump(mode="json"))


def told(these: dict[Side, Origin], others: dict[Side, Origin]) -> str:
    """The sides of ``these`` that differ from ``others``, for messages."""
    differing = [f"{side} {origin}" for side, origin in these.items() if origin != others.get(side)]
    return " and ".join([*differing, *(f"no {side}" for side in others if side not in these)])
