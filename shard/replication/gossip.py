"""Owns gossip: asks other shards for their state, sends them this shard's target (the intended distribution of
slots), and adopts the latest target among their answers if it is later than this shard's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotTable, partitions_named, served_by_any
from lookalike.model.errors import LookalikeError
from shard.replication import moves
from shard.replication.context import Context
from shard.replication.moves import Place

ALL_SECONDS = 10.0


class Gossip:
    """Fills `Context.states`. Every round asks the other replicas of this partition. A round asks all shards while
    the cluster is not formed, while slots move, and otherwise every ALL_SECONDS."""

    def __init__(self) -> None:
        self._all_asked_at = -ALL_SECONDS

    def ask_all_next(self) -> None:
        """Makes the next round ask all shards."""
        self._all_asked_at = -ALL_SECONDS

    async def exchange(self, context: Context, now: float) -> None:
        """Runs one round. `Context.states` then lacks the shards that were asked and did not answer."""
        membership = context.node.membership
        ask_all = (
            not membership.is_formed
            or moves.is_moving(membership.table)
            or moves.wants_slots(membership.table, membership.target)
            or now - self._all_asked_at >= ALL_SECONDS
        )
        if ask_all:
            self._all_asked_at = now
        places = [place for place in _other_places(context) if ask_all or place[0] == context.partition]
        await _ask(context, places, membership.target if membership.is_formed else None)
        await self._adopt_target(context)

    async def _adopt_target(self, context: Context) -> None:
        latest = max(
            (state.target for state in context.states.values() if state.is_formed),
            key=lambda known: known.order,
            default=None,
        )
        node = context.node
        if latest is not None and latest.order > node.membership.target.order:
            await context.executor.mutate(
                lambda: node.change(lambda before: before.with_target(latest) if before.is_formed else before)
            )
            self.ask_all_next()


async def _ask(context: Context, places: list[Place], target: Target | None) -> None:
    answers = await asyncio.gather(
        *(context.peer(place).state(target) for place in places), return_exceptions=True
    )
    for place, answer in zip(places, answers, strict=True):
        context.states.pop(place, None)
        if isinstance(answer, ShardState) and answer.cluster == context.config.cluster:
            context.states[place] = answer
        elif isinstance(answer, BaseException) and not isinstance(answer, LookalikeError):
            raise answer


def _other_places(context: Context) -> list[Place]:
    membership, states = context.node.membership, context.states.values()
    count = partitions_to_ask(
        membership.target,
        [membership.table, *(state.table for state in states)],
        [context.config.partitions, *(state.target.partitions for state in states)],
    )
    return [
        (partition, replica)
        for partition in range(count)
        for replica in range(context.config.replicas)
        if (partition, replica) != context.place
    ]


def partitions_to_ask(target: Target, tables: list[SlotTable], configured: Iterable[int]) -> int:
    """Returns how many partitions may hold slots.

    Args:
        target: This shard's target.
        tables: The slot tables of this shard and of the shards that answered.
        configured: The partition counts in this shard's config and in other shards' targets.
    """
    count = max(target.partitions, partitions_named(tables), *configured)
    if not served_by_any(tables).all():
        count = max(count, target.formerly)
    return count
