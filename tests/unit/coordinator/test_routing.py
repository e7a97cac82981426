"""Routing: every slot is requested from one partition, the latest that serves it, whatever old tables say."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from coordinator.routing import Place, Routing, slots_of_keys
from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotState, SlotTable, no_slots, slots_from_bytes
from lookalike.model.records import SLOTS, record_id, slot_of

TARGET = Target(1, 3)


def founded() -> dict[Place, SlotTable]:
    owners = TARGET.owners()
    return {(partition, 0): SlotTable.founded(partition, owners == partition) for partition in range(3)}


def test_a_slot_served_by_two_is_routed_to_the_one_it_moves_to() -> None:
    tables = founded()
    slots = no_slots()
    slots[np.flatnonzero(tables[0, 0].serving)[:5]] = True
    tables[0, 0] = tables[0, 0].put(slots, SlotState.SHARING, 1)
    tables[1, 0] = tables[1, 0].put(slots, SlotState.TAKING, 0, np.full(SLOTS, 2))
    routing = Routing.of(tables, frozenset(tables), TARGET)
    assert (routing.owners[slots] == 1).all()
    assert routing.served.all()


def test_unserved_slots_are_routed_to_their_last_server_in_a_share_of_their_own() -> None:
    tables = founded()
    routing = Routing.of(tables, frozenset({(0, 0), (1, 0)}), TARGET)
    assert not routing.served[tables[2, 0].serving].any()
    assert (routing.owners == TARGET.owners()).all()
    assert not routing.slots_of(2).any()
    assert [share.partition for share in routing.shares] == [0, 1, 2]


def test_keys_are_grouped_by_the_owner_of_their_slots() -> None:
    routing = Routing.of(founded(), frozenset(), TARGET)
    keys = [f"k{i}" for i in range(100)]
    parts = routing.split(slots_of_keys(keys), range(100))
    assert sorted(index for part in parts.values() for index in part) == list(range(100))
    for partition, indices in parts.items():
        assert all(routing.owners[slot_of(record_id(keys[i]))] == partition for i in indices)


@given(st.data())
def test_shares_cover_every_slot_once_and_served_slots_go_to_a_server(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    places = data.draw(st.sets(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=8))
    tables = {
        place: SlotTable(
            place[0],
            rng.integers(0, len(SlotState), SLOTS).astype(np.uint8),
            rng.integers(0, 6, SLOTS).astype(np.uint16),
            rng.integers(0, 4, SLOTS).astype(np.uint32),
        )
        for place in places
    }
    live = frozenset(place for place in places if rng.random() < 0.7)
    routing = Routing.of(tables, live, TARGET)
    asked = np.zeros(SLOTS, int)
    for share in routing.shares:
        slots = slots_from_bytes(share.data)
        assert int(slots.sum()) == share.slots
        assert (routing.owners[slots] == share.partition).all()
        asked += slots
    assert (asked == 1).all()
    for slot in np.flatnonzero(routing.served)[:50]:
        holders = [p for p in live if tables[p].serving[slot] and tables[p].generations[slot] > 0]
        latest = max(tables[p].generations[slot] for p in holders)
        assert routing.owners[slot] in {p[0] for p in holders if tables[p].generations[slot] == latest}
