"""The steps of replication, between shards in one process."""

from __future__ import annotations

import time

import numpy as np
import pytest

from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import Readiness
from lookalike.cluster.slots import SlotState
from lookalike.model.records import record_id, slot_of
from shard.replication.context import Context
from shard.replication.gossip import Gossip
from shard.replication.repair import Repair
from tests.unit.shard.replicas import Shard, shards, until

KEYS = [f"k{i}" for i in range(300)]


async def form(*members: Shard) -> None:
    founders = tuple(sorted(member.node.membership.member for member in members))
    for member in members:
        await member.executor.mutate(lambda node=member.node: node.change(lambda me: me.formed(founders)))


async def test_new_replicas_form_a_cluster_and_become_ready() -> None:
    async with shards(partitions=2, replicas=2) as cluster:
        members = [await cluster.start(p, r) for p in range(2) for r in range(2)]
        for member in members:
            member.replicate()
        await until(lambda: all(member.readiness.is_ready for member in members))
        serving = np.sum([member.node.table.serving for member in members], axis=0)
        assert (serving == 2).all()
        assert len({member.node.membership.founders for member in members}) == 1


async def test_sibling_that_is_loading_is_not_compared_with() -> None:
    """It has nothing in memory yet: a comparison would call this shard up to date while it is not."""
    async with shards(replicas=2, write_quorum="one") as cluster:
        full, other = await cluster.start(0, 0), await cluster.start(0, 1)
        await form(full, other)
        await full.write(*KEYS)
        loading = await cluster.restart_without_loading(full)
        context = Context(other.node, other.executor, other.readiness, cluster.config, other.peer_channels)
        gossip, repair = Gossip(), Repair(other.node.folder)
        other.readiness.fresh_at = 0.0
        await gossip.exchange(context, time.monotonic())
        assert context.states[0, 0].readiness is Readiness.LOADING
        assert not await repair.run(context, time.monotonic())
        assert (other.rows, other.readiness.fresh_at) == (0, 0.0)
        await loading.load()
        loading.readiness.state = Readiness.CATCHING_UP
        await gossip.exchange(context, time.monotonic())
        assert await repair.run(context, time.monotonic())
        assert other.rows == len(KEYS)
        assert other.readiness.fresh_at > 0.0
        await context.close()


async def test_replicas_pull_the_rows_that_they_lack_from_each_other() -> None:
    async with shards(replicas=2) as cluster:
        members = [await cluster.start(0, 0), await cluster.start(0, 1)]
        await form(*members)
        await members[0].write(*KEYS[:200])
        await members[1].write(*KEYS[100:])
        for member in members:
            member.replicate()
        await until(lambda: all(member.readiness.is_ready for member in members))
        await until(lambda: all(member.rows == len(KEYS) for member in members))
        digests = [member.engine.sums.digests for member in members]
        assert np.array_equal(*digests)


async def test_shard_with_an_empty_disk_fetches_what_its_sibling_serves() -> None:
    async with shards(replicas=2) as cluster:
        old, new = await cluster.start(0, 0), await cluster.start(0, 1)
        await old.executor.mutate(
            lambda: old.node.change(lambda me: me.formed((me.member, "0/1/the-disk-before")))
        )
        await old.write(*KEYS)
        new.replicate()
        await until(lambda: new.node.membership.is_formed)
        assert not new.readiness.is_ready
        old.replicate()
        await until(lambda: new.readiness.is_ready)
        assert new.rows == len(KEYS)
        assert new.node.membership.founders == ()
        assert new.node.table.slots_in(SlotState.OWNED).all()


async def test_new_partition_takes_its_slots_and_the_source_reclaims_the_rows() -> None:
    async with shards() as cluster:
        source = await cluster.start(0)
        source.replicate()
        await until(lambda: source.readiness.is_ready)
        await source.write(*KEYS)
        await cluster.reload(cluster.config.model_copy(update={"partitions": 2}))
        taker = await cluster.start(1)
        taker.replicate()
        moving = Target(2, 2).owners() == 1
        await until(lambda: taker.node.table.slots_in(SlotState.OWNED)[moving].all())
        await until(lambda: not source.node.slot_rows()[moving].any())
        moved = [key for key in KEYS if moving[slot_of(record_id(key))]]
        assert (taker.rows, source.rows) == (len(moved), len(KEYS) - len(moved))
        assert source.node.table.slots_in(SlotState.MOVED)[moving].all()


async def test_blocked_transfer_logs_its_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "shard.replication")
    async with shards() as cluster:
        source = await cluster.start(0)
        source.replicate()
        await until(lambda: source.readiness.is_ready)
        await cluster.reload(cluster.config.model_copy(update={"partitions": 2}))
        source.readiness.is_loaded = False
        taker = await cluster.start(1)
        taker.replicate()
        await until(lambda: taker.node.table.slots_in(SlotState.RECEIVING).any())
        await until(lambda: "slots wait for partition 0" in caplog.text)
        source.readiness.is_loaded = True
        moving = Target(2, 2).owners() == 1
        await until(lambda: taker.node.table.slots_in(SlotState.OWNED)[moving].all())
        waits = [record for record in caplog.records if "slots wait for" in record.getMessage()]
        assert len(waits) == 1


async def test_quarantined_collection_is_filled_again_from_a_sibling() -> None:
    async with shards(replicas=2) as cluster:
        members = [await cluster.start(0, 0), await cluster.start(0, 1)]
        await form(*members)
        await members[0].write(*KEYS)
        for member in members:
            member.replicate()
        await until(lambda: members[1].rows == len(KEYS))
        damaged = members[1]
        await damaged.executor.quarantine("c", damaged.engine, "a test damaged it")
        assert damaged.node.damaged() == {"c": "a test damaged it"}
        await until(lambda: not damaged.node.damaged())
        assert damaged.rows == len(KEYS)
        assert list((damaged.node.folder / "collections").glob(".damaged-c@1-*"))


async def test_dropped_collection_is_dropped_by_the_sibling_too() -> None:
    async with shards(replicas=2) as cluster:
        members = [await cluster.start(0, 0), await cluster.start(0, 1)]
        await form(*members)
        await members[0].write(*KEYS)
        for member in members:
            member.replicate()
        await until(lambda: members[1].rows == len(KEYS))
        await members[0].executor.mutate(lambda: members[0].node.drop_collection("c", 1))
        await until(lambda: not members[1].node.engines())
        assert not members[0].node.engines()
