"""Tests which batch sizes get CUDA graphs, and which graph a step uses. Capturing a graph would need a GPU."""

from __future__ import annotations

import pytest

from capsfusion_tasks.fusion.native.graphs import SIZES, size_for, sizes_of


def test_sixteen_sizes_rise_evenly_to_all_slots_and_are_captured_from_the_largest_on() -> None:
    assert sizes_of(64) == list(range(64, 0, -4))
    assert len(sizes_of(1000)) == SIZES == 16


@pytest.mark.parametrize("slots", [1, 2, 5, 16, 17])
def test_few_slots_have_fewer_sizes_none_of_them_empty_or_twice(slots: int) -> None:
    sizes = sizes_of(slots)
    assert sizes == sorted(set(sizes), reverse=True)
    assert (sizes[0], sizes[-1]) == (slots, 1)


@pytest.mark.parametrize(("busy", "size"), [(1, 4), (4, 4), (5, 8), (61, 64), (64, 64)])
def test_a_step_over_n_slots_uses_the_next_larger_size(busy: int, size: int) -> None:
    assert size_for(busy, sizes_of(64)) == size


@pytest.mark.parametrize("slots", [16, 64, 100, 250])
def test_at_most_a_sixteenth_of_the_slots_is_idle_in_a_step(slots: int) -> None:
    sizes = sizes_of(slots)
    assert max(size_for(busy, sizes) - busy for busy in range(1, slots + 1)) < slots / SIZES + 1
