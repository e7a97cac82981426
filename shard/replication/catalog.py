"""Owns how a shard learns from another which collections exist."""

from __future__ import annotations

from functools import partial

from lookalike.cluster.shard_state import ShardState
from lookalike.model.records import Collection
from lookalike.server.shard_client import ShardClient
from shard.executor import ShardExecutor
from shard.node import Node


async def follow_catalog(node: Node, executor: ShardExecutor, peer: ShardClient, state: ShardState) -> None:
    """Makes this shard's collections match the peer's: drops those that were dropped, and creates missing ones. If
    the peer is a replica of this partition, replaces damaged ones by empty ones, to be filled again.

    Args:
        state: The state that `peer` reported.
    """
    for name, incarnation in state.dropped.items():
        here = node.incarnation(name)
        if node.membership.dropped.get(name, 0) < incarnation or (here is not None and here <= incarnation):
            await executor.mutate(partial(node.drop_collection, name, incarnation))
    for collection in state.collections:
        if collection.incarnation > node.membership.dropped.get(collection.name, 0):
            await _follow_collection(node, executor, peer, state, collection)


async def _follow_collection(
    node: Node, executor: ShardExecutor, peer: ShardClient, state: ShardState, theirs: Collection
) -> None:
    name, incarnation = theirs.name, theirs.incarnation
    here = node.incarnation(name)
    is_damaged = name in node.damaged() and name not in node.engines()
    is_sibling = peer.partition == node.identity.partition
    if is_damaged and is_sibling and here == incarnation and name not in state.damaged:
        hash_file = await peer.fetch_hash(name)
        await executor.mutate(
            partial(node.recreate, name, theirs.code_space, theirs.indexing, incarnation, hash_file)
        )
    elif here is None or here < incarnation:
        hash_file = await peer.fetch_hash(name)
        await executor.mutate(
            partial(node.open_collection, name, theirs.code_space, theirs.indexing, incarnation, False, hash_file)
        )
