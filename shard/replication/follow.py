"""Owns the follow step: learns from other shards which collections exist, and what happened to this partition's
slots while this shard was away."""

from __future__ import annotations

from lookalike.cluster.slots import SlotTable
from shard.replication.catalog import follow_catalog
from shard.replication.context import Context


async def follow(context: Context) -> None:
    """Updates this shard's collections and table from the reports of the shards that answered."""
    for place, state in context.states.items():
        if state.is_formed:
            await follow_catalog(context.node, context.executor, context.peer(place), state)
    tables = list(context.sibling_tables().values())

    def follow_all(table: SlotTable) -> SlotTable:
        for sibling in tables:
            table = table.follow(sibling)
        return table

    await context.change_table(follow_all)
