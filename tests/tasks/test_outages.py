"""A source that does not answer while it is listed: nothing is frozen, and the next try lists all of its shards."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from capsfusion_tasks.errors import NotReadyError
from capsfusion_tasks.shards.local import LocalSource
from capsfusion_tasks.shards.source import SourceFile, Unreadable
from capsfusion_tasks.staging import layout
from capsfusion_tasks.staging.storage import Storage
from tests.opened import interval_tasks
from tests.tasks.place import DAY, DAYS, Place

Files = Callable[[LocalSource, Callable[[str], bool]], Iterator[SourceFile | Unreadable]]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[str], bool], int], None]:
    """A function that ends each listing of a source whose folder it accepts, after the given number of files."""
    files: Files = LocalSource.files

    def fail(where: Callable[[str], bool], after: int) -> None:
        def listing(source: LocalSource, wanted: Callable[[str], bool]) -> Iterator[SourceFile | Unreadable]:
            for number, file in enumerate(files(source, wanted)):
                if where(source.uri) and number == after:
                    raise NotReadyError(f"{source.uri} does not answer: try again later")
                yield file

        monkeypatch.setattr(LocalSource, "files", listing)

    return fail


@pytest.mark.parametrize("side", ["raw", "coco"])
@pytest.mark.parametrize("after", [0, 1])
def test_an_outage_while_a_source_is_listed_freezes_nothing(
    place: Place, fails: Callable[[Callable[[str], bool], int], None], side: str, after: int
) -> None:
    settings = place.settings()
    fails(lambda uri: uri.endswith(f"/{side}"), after)
    with pytest.raises(NotReadyError, match=rf"/{side} does not answer"):
        interval_tasks.discover(settings, DAY)
    assert not Storage(settings.staging_uri).exists(layout.discovered(DAY))
    fails(lambda _: False, 0)
    assert len(interval_tasks.discover(settings, DAY)) == 4


def test_a_day_without_shards_tells_of_the_sources_without_listing_them_again(
    place: Place, fails: Callable[[Callable[[str], bool], int], None]
) -> None:
    listed: list[str] = []

    def second(uri: str) -> bool:
        return uri in listed or listed.append(uri) is not None

    fails(second, 0)
    told: list[str] = []
    assert interval_tasks.discover(place.settings(), DAYS[1], on_none=told.extend) == []
    assert told == [
        f"{side}: 2 shards in {place.folder}/{folder} (*.parquet), which arrived as follows: 2 on 2026-11-10"
        for side, folder in {"laion_2b": "raw", "laion_coco": "coco"}.items()
    ]
    fails(lambda _: False, 0)
    interval_tasks.discover(place.settings(), DAY, on_none=told.extend)
    assert len(told) == 2
