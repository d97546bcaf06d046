"""Data intervals: a run handles the shards (source files) that arrived in its interval. All times are UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator

from capsfusion_tasks.errors import InputError


def _utc(value: datetime) -> datetime:
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


UtcTime = Annotated[datetime, AfterValidator(_utc)]  # a time without a time zone is in UTC


def refuse_empty_span(loaded_from: datetime | None, loaded_before: datetime | None) -> None:
    """Raise InputError if ``loaded_from`` is not before ``loaded_before``. None: the time range is open at this end."""
    if loaded_from and loaded_before and loaded_from >= loaded_before:
        raise InputError(
            f"the time range is empty: it starts {loaded_from} and ends {loaded_before}; give an end after the start"
        )


_KEY_TIME = "%Y%m%dT%H%M%SZ"


class Interval(BaseModel):
    """The data interval of a run: the shards that arrived at or after ``start`` and before ``end`` (UTC)."""

    model_config = ConfigDict(frozen=True)

    start: UtcTime
    end: UtcTime

    @model_validator(mode="after")
    def _ordered(self) -> Interval:
        if self.start >= self.end:
            raise InputError(
                f"the interval is empty: it starts {self.start} and ends {self.end}; give an end after the start"
            )
        return self

    @property
    def key(self) -> str:
        """The interval as a folder name: ``20261110T000000Z_20261111T000000Z``."""
        return f"{self.start:{_KEY_TIME}}_{self.end:{_KEY_TIME}}"

    @classmethod
    def from_key(cls, key: str) -> Interval:
        start, _, end = key.partition("_")
        return cls(start=datetime.strptime(start, _KEY_TIME), end=datetime.strptime(end, _KEY_TIME))

    @property
    def command(self) -> str:
        """The command that runs the interval without repeating finished work."""
        return f"capsfusion run --start {self.start:%Y-%m-%dT%H:%M:%S} --end {self.end:%Y-%m-%dT%H:%M:%S}"

    def is_within(self, other: Interval) -> bool:
        return other.start <= self.start and self.end <= other.end
