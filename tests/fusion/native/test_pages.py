"""Tests how pages of keys and values are assigned to slots, and how many pages there are."""

from __future__ import annotations

import pytest

from capsfusion_tasks.fusion.native.cache import Pages
from capsfusion_tasks.fusion.native.memory import MARGIN_BYTES, room


def test_a_slot_takes_a_page_when_its_tokens_need_one() -> None:
    pages = Pages(pages=5, page_tokens=16, slots=2, capacity=50)
    assert pages.per_slot == 4
    assert pages.grow(1, 16)
    assert pages.free == 4
    assert pages.grow(1, 17)
    assert pages.grow(0, 48)
    assert pages.free == 0
    held = [*pages.table[1, :2].tolist(), *pages.table[0, :3].tolist()]
    assert sorted(held) == [0, 1, 2, 3, 4]
    assert pages.may_grow(0)
    assert pages.grow(1, 32)  # no change, because the slot already has pages for 32 tokens


def test_a_slot_that_finds_too_few_pages_keeps_what_it_has() -> None:
    pages = Pages(pages=4, page_tokens=16, slots=2, capacity=64)
    assert pages.grow(0, 40)
    before = pages.table.clone()
    assert not pages.grow(1, 20)
    assert pages.free == 1
    assert pages.table.equal(before)
    assert pages.grow(1, 16)


def test_a_released_slots_table_names_the_spare_page_only() -> None:
    """A CUDA graph also computes idle slots. Their results must not reach a page of another slot."""
    pages = Pages(pages=3, page_tokens=16, slots=2, capacity=48)
    assert pages.table.eq(pages.spare).all()
    assert pages.grow(0, 48)
    pages.changed = False
    pages.release(0)
    assert pages.changed
    assert pages.free == 3
    assert pages.table.eq(pages.spare).all()
    assert pages.grow(1, 48)
    assert sorted(pages.table[1].tolist()) == [0, 1, 2]


def test_fewer_pages_than_the_longest_row_needs_are_refused() -> None:
    with pytest.raises(ValueError, match="3 pages of 16 tokens do not hold one row of 50 tokens"):
        Pages(pages=3, page_tokens=16, slots=1, capacity=50)


GB = 10**9
CARD = {"total": 100 * GB, "needed": 2 * GB, "page": GB // 10, "per_slot": 10}


def test_all_slots_get_the_pages_of_the_longest_rows_where_there_is_room() -> None:
    found = room(free=90 * GB, most_slots=64, **CARD)
    assert (found.slots, found.pages) == (64, 640)


def test_where_memory_is_short_slots_share_pages() -> None:
    # GB: 44 free - 2 for the batch - 2 (2% of the card) - 0.54 (margin) = 39.46, so 394 pages, one of them the spare.
    found = room(free=44 * GB, most_slots=512, **CARD)
    assert MARGIN_BYTES == 536_870_912
    assert (found.slots, found.pages) == (98, 393)  # the engine assumes that a row uses 4 of 10 pages


def test_one_row_gets_its_pages_whatever_is_free() -> None:
    found = room(free=1 * GB, most_slots=64, **CARD)
    assert (found.slots, found.pages) == (2, 10)
