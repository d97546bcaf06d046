"""The default source of raw or synthetic captions. Errors name the environment variable that sets another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pyarrow as pa

from capsfusion_tasks.errors import InputError, NotReadyError
from capsfusion_tasks.schemas import Shard
from capsfusion_tasks.shards.source import Source, SourceFile, Unreadable


class DefaultSource:
    """Wraps ``source``, which is used because the environment variable ``variable`` is not set."""

    def __init__(self, source: Source, variable: str) -> None:
        self._source, self._variable = source, variable
        self.uri = source.uri

    def files(self, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
        try:
            yield from self._source.files(wanted)
        except (InputError, NotReadyError) as error:
            hint = f"{self._variable} is not set, so its default is used: set the variable to your folder or address"
            raise type(error)(f"{error} ({hint})") from error

    def open(self, shard: Shard) -> AbstractContextManager[pa.NativeFile]:
        return self._source.open(shard)
