"""Owns the follow step of replication: a shard learns from other shards which collections exist and how they are
called, and what happened to its partition's slots while it was away."""

from __future__ import annotations

from functools import partial

from lookalike.cluster.slots import SlotTable
from shard.replication.catalog import follow_catalog
from shard.replication.context import Context


async def follow(context: Context) -> None:
    """Updates this shard's collections and slot table from the reports of the shards that answered."""
    await _follow_directory(context)
    for place, state in context.states.items():
        if state.is_formed:
            await follow_catalog(context.node, context.executor, context.peer(place), state)
    tables = list(context.sibling_tables().values())

    def follow_all(table: SlotTable) -> SlotTable:
        for sibling in tables:
            table = table.follow(sibling)
        return table

    await context.change_table(follow_all)


async def _follow_directory(context: Context) -> None:
    node = context.node
    for state in context.states.values():
        directory = state.directory
        if state.is_formed and directory.version > node.membership.directory.version:
            await context.executor.mutate(partial(node.adopt_directory, directory))
