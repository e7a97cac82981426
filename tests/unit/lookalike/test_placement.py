"""Placement: even, complete, and still when a partition is added."""

from __future__ import annotations

import pytest
from coordinator.placement import Placement

from lookalike.records import SLOTS

KEYS = [f"picture-{i}" for i in range(20_000)]


@pytest.mark.parametrize("partitions", [1, 2, 4, 7, 64])
def test_every_slot_has_an_owner_and_loads_are_even(partitions: int) -> None:
    placement = Placement(partitions)
    slots = [placement.slots(partition) for partition in range(partitions)]
    assert sum(slots) == SLOTS
    assert max(slots) < 2 * SLOTS / partitions


@pytest.mark.parametrize("partitions", range(1, 33))
def test_one_more_partition_takes_only_its_share(partitions: int) -> None:
    before, after = Placement(partitions), Placement(partitions + 1)
    moved = [key for key in KEYS if before.partition_of(key) != after.partition_of(key)]
    assert all(after.partition_of(key) == partitions for key in moved)
    assert after.slots(partitions) <= 1.2 * SLOTS / (partitions + 1)


def test_split_keeps_every_key_once_and_in_order() -> None:
    parts = Placement(5).split(KEYS)
    assert sorted(index for indices in parts.values() for index in indices) == list(range(len(KEYS)))
    assert all(indices == sorted(indices) for indices in parts.values())


def test_placement_is_fixed_for_good() -> None:
    # Stored records live where this says; another answer would lose them.
    assert [Placement(4).partition_of(key) for key in KEYS[:12]] == FIRST_OWNERS


FIRST_OWNERS = [3, 2, 0, 2, 0, 0, 0, 3, 3, 0, 3, 1]
