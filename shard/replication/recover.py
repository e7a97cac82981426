"""Owns the recover step: fetches slots that the siblings (the other replicas of this shard's partition) serve but
this shard lacks. A shard lacks slots if its disk is new, or if it was down when they moved to the partition."""

from __future__ import annotations

import logging

import numpy as np

from lookalike.cluster.slots import SlotState
from lookalike.server.observe import metrics
from shard.replication import moves
from shard.replication.context import Context

log = logging.getLogger("shard.replication")


async def recover(context: Context) -> None:
    """Copies the missing slots. Serves a slot once the copies come from enough siblings to include every
    acknowledged write."""
    siblings = context.sibling_tables()
    lost = moves.lost_to_peers(context.node.table, list(siblings.values()))
    if lost.any():
        log.info("recovering %d slots from other replicas of this partition", np.count_nonzero(lost))
        await context.change_table(lambda table: table.receive(lost > 0, context.partition, lost))
    receiving = context.node.table.receiving_from(context.partition)
    if not receiving.any():
        return
    copies = np.zeros(len(receiving), np.int64)
    for place, table in siblings.items():
        slots = receiving & table.serving
        if slots.any():
            pulled = await context.puller.pull(context.peer(place), slots)
            metrics.PULLED.labels("recovery").inc(pulled)
            copies += slots
    complete = receiving & (copies >= context.quorum.siblings)
    if complete.any():
        taking = [table for table in siblings.values() if table.slots_in(SlotState.TAKING).any()]
        await context.change_table(
            lambda table: moves.take_like_siblings(table.received(complete), complete, taking)
        )
