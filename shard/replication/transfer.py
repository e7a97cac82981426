"""Owns the transfer of slots to this partition from the partitions that hold them, one step per round of the
reconciler.

docs/CONSISTENCY.md describes the steps and why no record is lost."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import numpy as np

from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotState, SlotTable, no_slots
from lookalike.model.errors import LookalikeError
from lookalike.server.observe import metrics
from shard.replication import moves
from shard.replication.context import Context
from shard.replication.moves import Place

log = logging.getLogger("shard.replication")


class Transfer:
    """Remembers why shards block transfers, so that a reason is logged when it changes, not in each of ten rounds
    per second."""

    def __init__(self) -> None:
        self._blocked_by: dict[Place, str] = {}

    async def run(self, context: Context) -> bool:
        """Takes one step of every transfer. Returns whether any slot is still moving."""
        await _begin(context)
        table = context.node.table
        for source in np.unique(table.partners[table.slots_in(SlotState.RECEIVING)]):
            if source != context.partition:
                await self._copy(context, int(source))
        await _take(context)
        await self._settle(context)
        membership = context.node.membership
        return moves.is_moving(membership.table) or moves.wants_slots(membership.table, membership.target)

    async def _copy(self, context: Context, source: int) -> None:
        """Asks enough replicas of the source to forward writes to this partition, then copies the rows of each
        replica."""
        slots = context.node.table.receiving_from(source)
        generations = context.node.table.generations
        copies = np.zeros(len(slots), np.int64)
        for replica in range(context.config.replicas):
            peer = context.peer((source, replica))
            try:
                shared = await peer.share(slots, context.partition, generations) & slots
                if shared.any():
                    pulled = await context.puller.pull(peer, shared, context.throttle.pause)
                    metrics.PULLED.labels("move").inc(pulled)
                    copies += shared
                self._blocked_by.pop((source, replica), None)
            except LookalikeError as error:
                self._note_blocked((source, replica), error)
        complete = slots & (copies >= context.quorum.reads)
        if complete.any():
            await context.change_table(lambda table: table.received(complete))

    async def _settle(self, context: Context) -> None:
        """Asks every replica of the source to stop serving the slots. After that, writes need not be forwarded to
        the source."""
        for source, slots in moves.to_settle(context.node.table).items():
            generations = context.node.table.generations
            for replica in range(context.config.replicas):
                try:
                    peer = context.peer((source, replica))
                    slots = slots & await peer.release(slots, context.partition, generations)
                    self._blocked_by.pop((source, replica), None)
                except LookalikeError as error:
                    self._note_blocked((source, replica), error)
                    slots = no_slots()
            if slots.any():
                await context.change_table(partial(SlotTable.settle, slots=slots))

    def _note_blocked(self, place: Place, error: LookalikeError) -> None:
        if self._blocked_by.get(place) != error.message:
            log.info("slots wait for partition %d, replica %d: %s", *place, error.message)
        self._blocked_by[place] = error.message


async def _begin(context: Context) -> None:
    node, others = context.node, context.tables()
    abandoned = moves.abandoned(node.table, others)
    if abandoned.any():
        await context.change_table(lambda table: table.put(abandoned, SlotState.NONE, context.partition))
    empty = node.slot_rows() == 0
    for source, (slots, generations) in moves.to_take(node.table, node.membership.target, others, empty).items():
        log.info("%d slots come from partition %d", int(slots.sum()), source)
        await context.change_table(partial(SlotTable.receive, slots=slots, source=source, generations=generations))


async def _take(context: Context) -> None:
    siblings = await _current_sibling_tables(context)
    ready = moves.ready_to_take(context.node.table, siblings, context.quorum)
    if ready.any():
        await context.change_table(lambda table: table.take(ready))


async def _current_sibling_tables(context: Context) -> list[SlotTable]:
    """Asks the partition's other replicas for their slot tables again, because copying took a while. Returns none
    if no slot waits for them."""
    if not context.node.table.slots_in(SlotState.RECEIVED).any():
        return []
    target = context.node.membership.target
    answers = await asyncio.gather(
        *(context.peer(place).state(target) for place in context.sibling_places()), return_exceptions=True
    )
    return [answer.table for answer in answers if isinstance(answer, ShardState)]
