"""Owns the collections: which there are and in which code space.

The shards hold the truth; this is a cache of it that is dropped when a shard disagrees. A collection is made
on partition 0 first and dropped there last, so of two rival requests that partition decides."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coordinator.shard_link import ShardLink, ShardState
from lookalike.codespace import CodeSpace
from lookalike.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.records import Collection, check_collection_name

_STATE_SECONDS = 2.0


class Catalog:
    """The cluster's collections, by way of one replica of each partition."""

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = links
        self._spaces: dict[str, CodeSpace] = {}

    async def space(self, name: str, deadline: float) -> CodeSpace:
        """The collection's code space. Raises as `get` does."""
        known = self._spaces.get(name)
        return known or (await self.get(name, deadline)).code_space

    def forget(self, name: str) -> None:
        """Ask the shards again next time."""
        self._spaces.pop(name, None)

    async def get(self, name: str, deadline: float) -> Collection:
        """The collection with its rows on the partitions that answer. Raises NotFound, and
        PartitionUnavailable when a partition that could know it does not answer."""
        check_collection_name(name)
        states = await self._states(deadline)
        for collection in sum_up(states):
            if collection.name == name:
                self._spaces[name] = collection.code_space
                return collection
        for state in states:
            if isinstance(state, LookalikeError):
                raise state
        raise NotFound(f"collection: {name!r} does not exist; create it first")

    async def list(self, deadline: float) -> list[Collection]:
        """All collections, by name, as the partitions that answer know them."""
        states = await self._states(deadline)
        if all(isinstance(state, LookalikeError) for state in states):
            raise PartitionUnavailable("no partition answers; see the cluster's status")
        return sum_up(states)

    async def create(self, name: str, space: CodeSpace, deadline: float) -> Collection:
        """Make a collection on every partition, or finish making it. Raises AlreadyExists if it is
        everywhere, or somewhere in another code space."""
        check_collection_name(name)
        first, *others = self._links
        try:
            created = [await first.open_collection(name, space, deadline)]
            created += await asyncio.gather(*(link.open_collection(name, space, deadline) for link in others))
        except CodeSpaceMismatch as error:
            raise AlreadyExists(error.message) from None
        if not any(created):
            raise AlreadyExists(f"collection: {name!r} exists; drop it first or take another name")
        self._spaces[name] = space
        return Collection(name, space, 0)

    async def drop(self, name: str, deadline: float) -> None:
        """Delete a collection everywhere. Raises NotFound if it is nowhere; can be repeated when a
        partition did not answer."""
        check_collection_name(name)
        self.forget(name)
        first, *others = self._links
        dropped = list(await asyncio.gather(*(link.drop_collection(name, deadline) for link in others)))
        dropped.append(await first.drop_collection(name, deadline))
        if not any(dropped):
            raise NotFound(f"collection: {name!r} does not exist")

    async def _states(self, deadline: float) -> Sequence[ShardState | LookalikeError]:
        """What every shard says, waiting only so long that a silent one leaves time for the rest."""
        now = asyncio.get_running_loop().time()
        deadline = now + min(_STATE_SECONDS, (deadline - now) / 2)
        return await asyncio.gather(*(link.state_or_error(deadline) for link in self._links))


def sum_up(states: Sequence[ShardState | LookalikeError]) -> list[Collection]:
    """The collections of all shards that answered, by name, with their rows added up."""
    spaces: dict[str, CodeSpace] = {}
    rows: dict[str, int] = {}
    for state in states:
        for collection in state.collections if isinstance(state, ShardState) else ():
            spaces.setdefault(collection.name, collection.code_space)
            rows[collection.name] = rows.get(collection.name, 0) + collection.rows
    return [Collection(name, spaces[name], rows[name]) for name in sorted(spaces)]
