"""Decisions of replication other than on slots: which shards to ask, which rows to pull, which tombstones
to discard."""

from __future__ import annotations

import numpy as np

from lookalike.cluster.placement import Target
from lookalike.cluster.rows import Rows
from lookalike.cluster.slots import SlotState, SlotTable, all_slots, no_slots
from lookalike.model.records import SLOTS
from shard.replication import pull
from shard.replication.gossip import partitions_to_ask
from shard.replication.repair import tombstone_horizon


def test_earlier_partitions_are_asked_only_while_slots_are_missing() -> None:
    target = Target(2, 2, formerly=5)
    owners = target.owners()
    tables = [SlotTable.founded(p, owners == p) for p in range(2)]
    assert partitions_to_ask(target, tables, [2]) == 2
    assert partitions_to_ask(target, tables[:1], [2]) == 5
    assert partitions_to_ask(target, tables, [2, 7]) == 7


def test_partition_that_a_table_names_is_asked() -> None:
    target = Target(1, 1)
    table = SlotTable.founded(0, all_slots()).put(all_slots(), SlotState.SHARING, 3)
    assert partitions_to_ask(target, [table], [1]) == 4


def test_replicas_choose_one_horizon_whatever_their_clocks_say() -> None:
    day = 24 * 3_600_000
    now = 1_700_000_000_000
    step = day // 8
    first = now // step * step
    assert tombstone_horizon(first, day) == tombstone_horizon(first + step - 1, day)
    assert tombstone_horizon(first + step, day) > tombstone_horizon(first, day)
    # A version's upper bits are milliseconds.
    assert tombstone_horizon(now, day) >> 21 <= now - day


def test_only_missing_rows_are_pulled_and_no_discarded_tombstones() -> None:
    theirs = Rows.of([(1, 10, False), (2, 20, False), (3, 5, True), (4, 50, True)])
    mine = Rows.of([(1, 10, False), (2, 19, False)])
    assert pull.lacking(theirs, mine, horizon=6).tolist() == [False, True, False, True]
    assert pull.lacking(theirs, mine, horizon=5).tolist() == [False, True, True, True]


def test_portions_cover_the_slots_and_stay_below_the_limit() -> None:
    slots = no_slots()
    slots[[1, 2, 3, 900]] = True
    rows = np.zeros(SLOTS, np.int64)
    rows[[1, 2, 3, 900]] = [400_000, 400_000, 400_000, 3 * pull.LIST_ROWS]
    parts = [np.flatnonzero(part).tolist() for part in pull.portions(slots, rows)]
    assert parts == [[1, 2], [3], [900]]
    assert pull.portions(no_slots(), rows) == []
