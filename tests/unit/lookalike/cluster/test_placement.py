"""Placement: even, complete, and stable when a partition is added or drained."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.cluster.placement import Target
from lookalike.model.records import SLOTS, record_id, slot_of

KEYS = [f"picture-{i}" for i in range(20_000)]


def owners_of(partitions: int, keys: list[str]) -> list[int]:
    owners = Target(1, partitions).owners()
    return [int(owners[slot_of(record_id(key))]) for key in keys]


@pytest.mark.parametrize("partitions", [1, 2, 4, 7, 64])
def test_every_slot_has_an_owner_and_loads_are_even(partitions: int) -> None:
    slots = np.bincount(Target(1, partitions).owners(), minlength=partitions)
    assert slots.sum() == SLOTS
    assert slots.max() < 2 * SLOTS / partitions


@pytest.mark.parametrize("partitions", range(1, 33))
def test_new_partition_takes_only_its_share(partitions: int) -> None:
    before, after = Target(1, partitions).owners(), Target(2, partitions + 1).owners()
    moved = before != after
    assert (after[moved] == partitions).all()
    assert moved.sum() <= 1.2 * SLOTS / (partitions + 1)
    records = [key for key in KEYS if moved[slot_of(record_id(key))]]
    assert len(records) <= 1.2 * len(KEYS) / (partitions + 1)


def test_drained_partition_holds_nothing_and_only_its_slots_move() -> None:
    before, after = Target(1, 4).owners(), Target(2, 4, (1,)).owners()
    assert 1 not in after
    assert (before[before != after] == 1).all()


def test_later_target_wins_and_with_equal_epochs_the_greater() -> None:
    targets = [Target(2, 3), Target(1, 9), Target(2, 4), Target(2, 4, (1,))]
    assert max(targets, key=lambda target: target.order) == Target(2, 4, (1,))


def test_placement_never_changes() -> None:
    # Stored records are where this says; another result would lose them.
    assert owners_of(4, KEYS[:12]) == FIRST_OWNERS


FIRST_OWNERS = [3, 2, 0, 2, 0, 0, 0, 3, 3, 0, 3, 1]
