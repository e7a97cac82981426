"""Owns the join step: a shard with a new folder forms a cluster with the other shards of its config,
or joins a cluster that exists."""

from __future__ import annotations

import logging

from shard.replication import moves
from shard.replication.context import Context

log = logging.getLogger("shard.replication")


async def join(context: Context) -> bool:
    """Forms or joins a cluster if that is possible now. Returns whether this shard belongs to a cluster."""
    config, node = context.config, context.node
    expected = [
        (partition, replica)
        for partition in range(config.partitions)
        for replica in range(config.replicas)
        if (partition, replica) != context.place
    ]
    states = dict(context.states)
    after = await context.executor.mutate(lambda: node.change(lambda me: moves.formation(me, expected, states)))
    if after.is_formed:
        kind = "a founder" if after.founders else "a later member"
        log.info(
            "this shard is %s of cluster %s, with %d slots", kind, config.cluster, int(after.table.serving.sum())
        )
        await propose_target(context)
    return after.is_formed


async def propose_target(context: Context) -> None:
    """Turns a changed number of partitions in the config into a new target."""
    node, partitions = context.node, context.config.partitions
    before = node.membership.target
    after = await context.executor.mutate(lambda: node.change(lambda known: known.with_config(partitions)))
    if after.target != before:
        log.info("%d partitions from now on (epoch %d)", after.target.partitions, after.target.epoch)
