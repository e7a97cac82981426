"""Owns the collections: which there are, in which code space, and what they keep beside their codes.

The shards hold the truth; this is a cache of it that is dropped when a shard disagrees. Partition 0 decides:
a collection exists if it exists there, in the incarnation that is there. It is made there first and dropped
there last; what a failed drop leaves elsewhere is an earlier incarnation, which the next creation clears."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from coordinator.shard_link import ShardLink, ShardState
from lookalike.codespace import CodeSpace
from lookalike.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.indexing import Indexing
from lookalike.records import Collection, check_collection_name

_STATE_SECONDS = 2.0

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What a collection's codes are, and what it keeps beside them: all that a request must know of it."""

    space: CodeSpace
    indexing: Indexing


class NotInLayout(InvalidRequest):
    """Refused because of what the collection keeps, as it is remembered: which may be out of date."""


class Catalog:
    """The cluster's collections, by way of one replica of each partition."""

    def __init__(self, links: Sequence[ShardLink]) -> None:
        self._links = links
        self._layouts: dict[str, Layout] = {}

    async def layout(self, name: str, deadline: float) -> Layout:
        """The collection's layout. Raises as `get` does."""
        known = self._layouts.get(name)
        if known is None:
            collection = await self.get(name, deadline)
            known = Layout(collection.code_space, collection.indexing)
        return known

    def forget(self, name: str) -> None:
        """Ask the shards again next time."""
        self._layouts.pop(name, None)

    async def in_layout(self, name: str, deadline: float, call: Callable[[Layout], Awaitable[Result]]) -> Result:
        """What `call` returns for the collection's layout. Called again if it fails because the collection was
        made anew, by way of another coordinator, in another layout than the one remembered."""
        layout = await self.layout(name, deadline)
        try:
            return await call(layout)
        except (NotFound, CodeSpaceMismatch, NotInLayout):
            if not await self.is_outdated(name, layout, deadline):
                raise
        return await call(await self.layout(name, deadline))

    async def is_outdated(self, name: str, layout: Layout, deadline: float) -> bool:
        """Ask the shards whether the collection has another layout than this one. Raises as `get` does."""
        self.forget(name)
        return await self.layout(name, deadline) != layout

    async def get(self, name: str, deadline: float) -> Collection:
        """The collection with its rows on the partitions that answer. Raises NotFound, and
        PartitionUnavailable when no partition that could know it answers."""
        check_collection_name(name)
        states = await self._states(deadline)
        for collection in sum_up(states):
            if collection.name == name:
                self._layouts[name] = Layout(collection.code_space, collection.indexing)
                return collection
        if isinstance(states[0], LookalikeError):
            raise states[0]
        raise NotFound(f"collection: {name!r} does not exist; create it first")

    async def list(self, deadline: float) -> list[Collection]:
        """All collections, by name, as the partitions that answer know them."""
        states = await self._states(deadline)
        if all(isinstance(state, LookalikeError) for state in states):
            raise PartitionUnavailable("no partition answers; see the cluster's status")
        return sum_up(states)

    async def hash_file(self, name: str, deadline: float) -> bytes:
        """The file that the collection's hash came in, or nothing."""
        return await self._links[0].fetch_hash(name, deadline)

    async def create(
        self, name: str, space: CodeSpace, indexing: Indexing, hash_file: bytes, deadline: float
    ) -> Collection:
        """Make a collection on every partition, or finish making it. Raises AlreadyExists if it is
        everywhere, or exists in another code space or indexed otherwise."""
        check_collection_name(name)
        indexing.require_bits(space.bits)
        states = await self._states(deadline)
        earlier = [found.incarnation for found in _collections(states) if found.name == name]
        candidate = max([time.time_ns(), *(incarnation + 1 for incarnation in earlier)])
        first, *others = self._links
        try:
            made, incarnation = await first.open_collection(
                name, space, indexing, candidate, True, hash_file, deadline
            )
            opened = await asyncio.gather(
                *(
                    link.open_collection(name, space, indexing, incarnation, False, hash_file, deadline)
                    for link in others
                )
            )
        except CodeSpaceMismatch as error:
            raise AlreadyExists(error.message) from None
        if not made and not any(created for created, _ in opened):
            raise AlreadyExists(f"collection: {name!r} exists; drop it first or take another name")
        self._layouts[name] = Layout(space, indexing)
        # A drop that came meanwhile may have begun before this was done; then the collection is not there.
        collection = await self.get(name, deadline)
        if collection.incarnation != incarnation:
            raise AlreadyExists(f"collection: {name!r} was dropped and made anew meanwhile")
        return collection

    async def drop(self, name: str, deadline: float) -> None:
        """Delete a collection everywhere. Raises NotFound if there is none; can be repeated when a
        partition did not answer."""
        collection = await self.get(name, deadline)
        self.forget(name)
        first, *others = self._links
        incarnation = collection.incarnation
        await asyncio.gather(*(link.drop_collection(name, incarnation, deadline) for link in others))
        if not await first.drop_collection(name, incarnation, deadline):
            raise NotFound(f"collection: {name!r} does not exist; it was dropped meanwhile")

    async def _states(self, deadline: float) -> Sequence[ShardState | LookalikeError]:
        """What every shard says, waiting only so long that a silent one leaves time for the rest."""
        now = asyncio.get_running_loop().time()
        deadline = now + min(_STATE_SECONDS, (deadline - now) / 2)
        return await asyncio.gather(*(link.state_or_error(deadline) for link in self._links))


def sum_up(states: Sequence[ShardState | LookalikeError]) -> list[Collection]:
    """The collections that exist, by name, with their rows added up over the shards that answered. Without
    partition 0, those of the others' latest incarnations."""
    decisive = states[:1] if isinstance(states[0], ShardState) else states
    chosen: dict[str, Collection] = {}
    for collection in _collections(decisive):
        other = chosen.setdefault(collection.name, collection)
        if collection.incarnation > other.incarnation:
            chosen[collection.name] = collection
    rows: dict[tuple[str, int], int] = {}
    for collection in _collections(states):
        key = (collection.name, collection.incarnation)
        rows[key] = rows.get(key, 0) + collection.rows
    return [
        dataclasses.replace(chosen[name], rows=rows[name, chosen[name].incarnation]) for name in sorted(chosen)
    ]


def _collections(states: Sequence[ShardState | LookalikeError]) -> Iterator[Collection]:
    for state in states:
        if isinstance(state, ShardState):
            yield from state.collections
