"""Owns the collections: which there are, in which code space, and what they keep beside their codes.

The shards hold the truth; this is a cache of it that is dropped when a shard disagrees. Partition 0 decides, by
its first replica: a collection exists if it exists there, in the incarnation that is there. It is made and dropped
there first; the other shards learn it from the coordinator or, if they were away, from each other."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from coordinator.cluster import Cluster
from coordinator.shard_link import ShardLink
from lookalike.cluster.shard_state import ShardState
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, check_collection_name
from lookalike.server.observe.metrics import OTHER, CollectionLabels

# Its first replica decides which collections there are.
_REGISTRAR = 0
# How long a drop waits for the shards that do not decide.
_OTHERS_SECONDS = 1.0

Result = TypeVar("Result")

log = logging.getLogger("coordinator.catalog")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What a collection's codes are, and what it keeps beside them: all that a request must know of it."""

    space: CodeSpace
    indexing: Indexing


class NotInLayout(InvalidRequest):
    """Refused because of what the collection keeps, as it is remembered: which may be out of date."""


class Catalog:
    """The cluster's collections."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._layouts: dict[str, Layout] = {}
        self._labels = CollectionLabels()

    async def layout(self, name: str, deadline: float) -> Layout:
        """The collection's layout. Raises as `get` does."""
        known = self._layouts.get(name)
        if known is None:
            collection = await self.get(name, deadline)
            known = Layout(collection.code_space, collection.indexing)
        return known

    def label(self, name: str) -> str:
        """The name in metrics: only of collections that exist, for a client may send any."""
        return self._labels.of(name) if name in self._layouts else OTHER

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
        states = await self._cluster.states(deadline)
        for collection in sum_up(states):
            if collection.name == name:
                self._layouts[name] = Layout(collection.code_space, collection.indexing)
                return collection
        if isinstance(decisive := states[_REGISTRAR], LookalikeError):
            raise decisive
        raise NotFound(f"collection: {name!r} does not exist; create it first")

    async def list(self, deadline: float) -> list[Collection]:
        """All collections, by name, as the partitions that answer know them."""
        states = await self._cluster.states(deadline)
        if all(isinstance(state, LookalikeError) for state in states.values()):
            raise PartitionUnavailable("no partition answers; see the cluster's status")
        return sum_up(states)

    async def hash_file(self, name: str, deadline: float) -> bytes:
        """The file that the collection's hash came in, or nothing."""
        return await self._cluster.group(_REGISTRAR).first(lambda link: link.fetch_hash(name, deadline), deadline)

    async def create(
        self, name: str, space: CodeSpace, indexing: Indexing, hash_file: bytes, deadline: float
    ) -> Collection:
        """Make a collection on every partition, or finish making it. Raises AlreadyExists if it is
        everywhere, or exists in another code space or indexed otherwise."""
        check_collection_name(name)
        indexing.require_bits(space.bits)
        states = await self._cluster.states(deadline)
        earlier = [found.incarnation for found in _collections(states.values()) if found.name == name]
        candidate = max([time.time_ns(), *(incarnation + 1 for incarnation in earlier)])
        first = self._registrar
        try:
            made, incarnation = await first.open_collection(
                name, space, indexing, candidate, True, hash_file, deadline
            )
            created = await self._open_elsewhere(name, space, indexing, incarnation, hash_file, deadline)
        except CodeSpaceMismatch as error:
            raise AlreadyExists(error.message) from None
        if not made and not created:
            raise AlreadyExists(f"collection: {name!r} exists; drop it first or take another name")
        self._layouts[name] = Layout(space, indexing)
        # A drop that came meanwhile may have begun before this was done; then the collection is not there.
        collection = await self.get(name, deadline)
        if collection.incarnation != incarnation:
            raise AlreadyExists(f"collection: {name!r} was dropped and made anew meanwhile")
        return collection

    async def drop(self, name: str, deadline: float) -> None:
        """Delete a collection everywhere. Raises NotFound if there is none. Shards that do not answer drop it once
        they hear of it from the others."""
        collection = await self.get(name, deadline)
        self.forget(name)
        incarnation = collection.incarnation
        if not await self._registrar.drop_collection(name, incarnation, deadline):
            raise NotFound(f"collection: {name!r} does not exist; it was dropped meanwhile")

        soon = min(deadline, asyncio.get_running_loop().time() + _OTHERS_SECONDS)

        async def drop(link: ShardLink) -> None:
            try:
                await link.drop_collection(name, incarnation, soon)
            except (PartitionUnavailable, DeadlineExceeded) as error:
                log.info("collection %s is not dropped yet everywhere: %s", name, error.message)

        await asyncio.gather(*(drop(link) for link in self._others()))

    @property
    def _registrar(self) -> ShardLink:
        return self._cluster.replicas(_REGISTRAR)[0]

    def _others(self) -> Sequence[ShardLink]:
        links = [link for partition in self._cluster.partitions for link in self._cluster.replicas(partition)]
        return [link for link in links if link is not self._registrar]

    async def _open_elsewhere(
        self, name: str, space: CodeSpace, indexing: Indexing, incarnation: int, hash_file: bytes, deadline: float
    ) -> bool:
        """Make the collection on the other shards: on as many replicas of each partition as a write needs, at
        least. Returns whether one of them had it not."""
        open_on = [
            (link, link.open_collection(name, space, indexing, incarnation, False, hash_file, deadline))
            for link in self._others()
        ]
        answers = await asyncio.gather(*(call for _, call in open_on), return_exceptions=True)
        opened = {_REGISTRAR: 1}
        failures: list[BaseException] = []
        created = False
        for (link, _), answer in zip(open_on, answers, strict=True):
            if isinstance(answer, BaseException):
                failures.append(answer)
                if not isinstance(answer, PartitionUnavailable):
                    raise answer
                continue
            created = created or answer[0]
            opened[link.partition] = opened.get(link.partition, 0) + 1
        for partition in self._cluster.partitions:
            if failures and opened.get(partition, 0) < self._cluster.group(partition).writes_needed:
                raise failures[0]
        return created


def sum_up(states: Mapping[int, ShardState | LookalikeError]) -> list[Collection]:
    """The collections that exist, by name, with their rows added up over the partitions that answered. Without
    partition 0, those of the others' latest incarnations."""
    first = states[_REGISTRAR]
    decisive: Sequence[ShardState | LookalikeError] = (
        [first] if isinstance(first, ShardState) else list(states.values())
    )
    chosen: dict[str, Collection] = {}
    for collection in _collections(decisive):
        other = chosen.setdefault(collection.name, collection)
        if collection.incarnation > other.incarnation:
            chosen[collection.name] = collection
    rows: dict[tuple[str, int], int] = {}
    for collection in _collections(states.values()):
        key = (collection.name, collection.incarnation)
        rows[key] = rows.get(key, 0) + collection.rows
    return [
        dataclasses.replace(chosen[name], rows=rows[name, chosen[name].incarnation]) for name in sorted(chosen)
    ]


def _collections(states: Iterable[ShardState | LookalikeError]) -> Iterator[Collection]:
    for state in states:
        if isinstance(state, ShardState):
            yield from state.collections
