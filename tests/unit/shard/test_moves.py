"""Decisions on slots: which are abandoned, which are begun, and when a partition may serve."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotSet, SlotState, SlotTable, no_slots, partitions_named
from lookalike.model.records import SLOTS
from shard.replication import moves
from shard.replication.moves import Quorum

ALL = np.ones(SLOTS, np.bool_)


def some(*numbers: int) -> SlotSet:
    slots = no_slots()
    slots[list(numbers)] = True
    return slots


def table(own: int, state: SlotState, slots: SlotSet, partner: int, generation: int) -> SlotTable:
    return SlotTable.empty(own).put(slots, state, partner, np.full(SLOTS, generation))


def test_slot_that_another_partition_got_is_abandoned_even_if_the_source_is_gone() -> None:
    slots = some(3, 4)
    mine = table(1, SlotState.RECEIVING, slots, 4, 7)
    # Partition 2 took slot 3 from partition 4, which then stopped; now this partition asks it for the slot.
    others = {(2, 0): table(2, SlotState.SHARING, some(3), 1, 7)}
    gone = moves.abandoned(mine, others)
    assert np.flatnonzero(gone).tolist() == [3]
    again = mine.put(gone, SlotState.NONE, 1)
    taken = moves.to_take(again, Target(1, 2), others, ALL)
    assert {source: np.flatnonzero(part).tolist() for source, (part, _) in taken.items()} == {2: [3]}
    _, generations = taken[2]
    assert generations[3] == 8
    assert partitions_named([again.receive(*_first(taken)), others[2, 0]]) == 5


def _first(
    taken: dict[int, tuple[SlotSet, np.typing.NDArray[np.uint32]]],
) -> tuple[SlotSet, int, np.typing.NDArray[np.uint32]]:
    source, (slots, generations) = next(iter(taken.items()))
    return slots, source, generations


@pytest.mark.parametrize(
    ("own", "state", "generation"),
    [(2, SlotState.OWNED, 6), (2, SlotState.RECEIVED, 7), (1, SlotState.TAKING, 7)],
    ids=["earlier generation", "not served yet", "another replica of this partition"],
)
def test_slot_that_may_still_arrive_is_not_abandoned(own: int, state: SlotState, generation: int) -> None:
    mine = table(1, SlotState.RECEIVING, some(3), 4, 7)
    assert not moves.abandoned(mine, {(own, 1): table(own, state, some(3), 4, generation)}).any()


def test_slot_that_all_replicas_of_the_source_gave_away_is_abandoned() -> None:
    mine = table(1, SlotState.RECEIVING, some(3), 4, 7)
    moved = table(4, SlotState.MOVED, some(3), 2, 6)
    holding = table(4, SlotState.OWNED, some(3), 4, 6)
    assert moves.abandoned(mine, {(4, 0): moved, (4, 1): moved}).any()
    assert not moves.abandoned(mine, {(4, 0): moved, (4, 1): holding}).any()


def test_slot_is_served_once_enough_replicas_have_it() -> None:
    mine = table(1, SlotState.RECEIVED, some(3), 4, 7)
    having, lacking = table(1, SlotState.RECEIVED, some(3), 4, 7), table(1, SlotState.RECEIVING, some(3), 4, 7)
    earlier = table(1, SlotState.OWNED, some(3), 1, 5)
    quorum = Quorum(replicas=3, writes=2)
    assert moves.ready_to_take(mine, [having, lacking], quorum).any()
    assert not moves.ready_to_take(mine, [lacking, earlier], quorum).any()


def test_number_of_slots_in_transfer_is_limited() -> None:
    target = Target(1, 2)
    source = SlotTable.founded(0, ALL)
    mine = SlotTable.empty(1)
    (slots, _) = moves.to_take(mine, target, {(0, 0): source}, ALL)[0]
    assert int(slots.sum()) == moves.SLOTS_AT_ONCE
    assert (target.owners()[slots] == 1).all()
    busy = mine.receive(slots, 0, np.full(SLOTS, 2))
    assert moves.to_take(busy, target, {(0, 0): source}, ALL) == {}
    # Rows left over from an earlier stay of a slot are removed first.
    assert moves.to_take(mine, target, {(0, 0): source}, no_slots()) == {}


def test_replicas_that_began_with_different_slots_serve_all_of_them_in_the_end() -> None:
    target = Target(2, 3)
    was = Target(1, 2).owners()
    sources = {(p, 0): SlotTable.founded(p, was == p) for p in (0, 1)}
    # Each replica knew only one source when it began, and receives as many slots as it may. The other lacks them.
    mine, other = (_all_begun(SlotTable.empty(2), target, {place: table}) for place, table in sources.items())
    assert not (mine.writable & other.writable).any()
    mine, other = (
        _all_begun(one, target, {**sources, (2, 1): peer}) for one, peer in ((mine, other), (other, mine))
    )
    mine, other = (one.received(ALL) for one in (mine, other))
    ready = moves.ready_to_take(mine, [other], Quorum(replicas=2, writes=2))
    assert int(ready.sum()) == 2 * moves.SLOTS_AT_ONCE
    assert (moves.ready_to_take(other, [mine], Quorum(replicas=2, writes=2)) == ready).all()


def _all_begun(table: SlotTable, target: Target, others: dict[tuple[int, int], SlotTable]) -> SlotTable:
    for source, (slots, generations) in moves.to_take(table, target, others, ALL).items():
        table = table.receive(slots, source, generations)
    return table
