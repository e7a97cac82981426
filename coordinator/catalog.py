"""Owns the collections: which exist, in which code space, and what they store next to their codes.

The shards are the source of truth; this cache is dropped when a shard disagrees. The registrar, the first replica
of partition 0, decides: a collection exists if it exists there, in the incarnation that is there. It is created
and dropped there first; the other shards learn of it from the coordinator or, if they were away, from each
other."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from coordinator.cluster import Cluster
from coordinator.names import Names
from lookalike.cluster.directory import Change, Kind, check_stored_name, numbered
from lookalike.cluster.shard_state import ShardState
from lookalike.model.codespace import CodeSpace, UnlabelledCode
from lookalike.model.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    Corruption,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.model.indexing import Indexing
from lookalike.model.records import Collection, check_collection_name
from lookalike.server.observe.metrics import OTHER, CollectionLabels
from lookalike.server.shard_client import ShardClient

# The partition whose first replica is the registrar.
_REGISTRAR = 0
# How long a drop waits for the other shards.
_OTHERS_SECONDS = 1.0
# How long the creation of a collection waits for enough shards to answer, and how often it asks.
_NAME_SECONDS, _NAME_PAUSE_SECONDS = 3.0, 0.25

Result = TypeVar("Result")

log = logging.getLogger("coordinator.catalog")


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """What a request must know of a collection: its code space, and what it stores next to the codes."""

    space: CodeSpace
    indexing: Indexing


class NotInLayout(InvalidRequest):
    """Rejected because of what the collection stores, according to a cached layout, which may be out of date."""


class Catalog:
    """The cluster's collections."""

    def __init__(self, cluster: Cluster, names: Names) -> None:
        self._cluster = cluster
        self._names = names
        self._layouts: dict[str, Layout] = {}
        self._labels = CollectionLabels()

    async def layout(self, name: str, deadline: float) -> Layout:
        """Returns the collection's layout, from the cache if possible. Raises what `get` raises."""
        known = self._layouts.get(name)
        if known is None:
            collection = await self.get(name, deadline)
            known = Layout(collection.code_space, collection.indexing)
        return known

    def label(self, name: str) -> str:
        """Returns the name to use in metrics. Clients may send any name, so names that do not exist share one
        label."""
        return self._labels.of(self._names.shown(name)) if name in self._layouts else OTHER

    def forget(self, name: str) -> None:
        """Drops the cached layout."""
        self._layouts.pop(name, None)

    async def in_layout(self, name: str, deadline: float, call: Callable[[Layout], Awaitable[Result]]) -> Result:
        """Returns what `call` returns for the collection's layout.

        If `call` fails because the cached layout is out of date, as when another coordinator recreated the
        collection, `call` is called again with the new layout.
        """
        layout = await self.layout(name, deadline)
        try:
            return await call(layout)
        except (NotFound, CodeSpaceMismatch, UnlabelledCode, NotInLayout):
            if not await self.is_outdated(name, layout, deadline):
                raise
        return await call(await self.layout(name, deadline))

    async def is_outdated(self, name: str, layout: Layout, deadline: float) -> bool:
        """Asks the shards whether the collection's layout differs from this one. Raises what `get` raises."""
        self.forget(name)
        return await self.layout(name, deadline) != layout

    async def get(self, name: str, deadline: float) -> Collection:
        """Returns the collection. Its `rows` counts those on the partitions that answer.

        Raises:
            NotFound: If it does not exist.
            Corruption: If no partition that answers can read it, and it is damaged on one of them.
            PartitionUnavailable: If no partition that answers knows it, and the registrar does not answer.
        """
        check_stored_name(name)
        states = await self._cluster.states(deadline)
        for collection in sum_up(states):
            if collection.name == name:
                self._layouts[name] = Layout(collection.code_space, collection.indexing)
                return collection
        for state in states.values():
            if isinstance(state, ShardState) and name in state.damaged:
                raise Corruption(state.damaged[name])
        if isinstance(decisive := states[_REGISTRAR], LookalikeError):
            raise decisive
        raise NotFound(f"collection: {name!r} does not exist; create it first")

    async def list(self, deadline: float) -> list[Collection]:
        """Returns all collections known to the partitions that answer, ordered by name. Raises DeadlineExceeded or
        PartitionUnavailable if none does."""
        states = await self._cluster.states(deadline)
        errors = [state for state in states.values() if isinstance(state, LookalikeError)]
        if len(errors) == len(states):
            if all(isinstance(error, DeadlineExceeded) for error in errors):
                raise DeadlineExceeded("no partition answered in time; allow more time")
            raise PartitionUnavailable("no partition answers; see the cluster's status")
        return sum_up(states)

    async def hash_file(self, name: str, deadline: float) -> bytes:
        """Returns the collection's hash file; empty if it was created without one."""
        return await self._cluster.group(_REGISTRAR).first(
            lambda client: client.fetch_hash(name, deadline), deadline
        )

    async def create(
        self, name: str, space: CodeSpace, indexing: Indexing, hash_file: bytes, deadline: float
    ) -> Collection:
        """Creates a collection on every partition, or completes an earlier attempt.

        Returns:
            The collection, with its stored name.

        Raises:
            AlreadyExists: If it exists everywhere, or with another code space or indexing.
        """
        indexing.require_bits(space.bits)
        name = await self._stored_name(check_collection_name(name), deadline)
        states = await self._cluster.states(deadline)
        earlier = [found.incarnation for found in _collections(states.values()) if found.name == name]
        candidate = max([time.time_ns(), *(incarnation + 1 for incarnation in earlier)])
        first = self._registrar
        try:
            is_new, incarnation = await first.open_collection(
                name, space, indexing, candidate, True, hash_file, deadline
            )
            is_new |= await self._open_on_others(name, space, indexing, incarnation, hash_file, deadline)
        except CodeSpaceMismatch as error:
            raise AlreadyExists(error.message) from None
        if not is_new:
            raise AlreadyExists(f"collection: {name!r} exists; drop it first or use another name")
        self._layouts[name] = Layout(space, indexing)
        # A concurrent drop may have started before the creation was complete; then the collection does not exist.
        collection = await self.get(name, deadline)
        if collection.incarnation != incarnation:
            raise AlreadyExists(f"collection: {name!r} was dropped and created again in the meantime")
        return collection

    async def _stored_name(self, name: str, deadline: float) -> str:
        """The name to store a new collection under."""
        clock = asyncio.get_running_loop()
        # The client does not repeat the call, so a shard that is late for a moment must not fail it.
        give_up_at = clock.time() + min(_NAME_SECONDS, (deadline - clock.time()) / 2)
        while (directory := await self._names.confirmed(deadline)) is None:
            if clock.time() < give_up_at:
                await asyncio.sleep(_NAME_PAUSE_SECONDS)
                continue
            raise PartitionUnavailable("too few shards answer to create a collection; see the cluster's status")
        if name in directory.aliases:
            raise AlreadyExists(f"collection: {name!r} is an alias; delete it first or use another name")
        stored = directory.stored(name)
        if stored is None:
            stored = numbered(name, time.time_ns())
            await self._names.change(Change(Kind.STORE_AS, name, stored), deadline)
        return stored

    async def drop(self, name: str, deadline: float) -> None:
        """Drops a collection everywhere. Shards that do not answer drop it when they learn of it from the others.

        Raises:
            InvalidRequest: If it has aliases.
            NotFound: If it does not exist.
        """
        collection = await self.get(name, deadline)
        known = await self._names.confirmed(deadline)
        self.forget(name)
        incarnation = collection.incarnation
        dropped, directory = await self._registrar.drop_unless_aliased(name, incarnation, deadline)
        if not dropped:
            raise NotFound(f"collection: {name!r} does not exist; it was dropped in the meantime")

        soon = min(deadline, asyncio.get_running_loop().time() + _OTHERS_SECONDS)

        async def drop(client: ShardClient) -> None:
            try:
                await client.drop_collection(name, incarnation, soon)
            except (PartitionUnavailable, DeadlineExceeded) as error:
                log.info("collection %s is not dropped everywhere yet: %s", name, error.message)

        await asyncio.gather(*(drop(client) for client in self._others()))
        if known is None or directory.version > known.version:
            await self._names.publish(directory, deadline)

    @property
    def _registrar(self) -> ShardClient:
        return self._cluster.replicas(_REGISTRAR)[0].client

    def _others(self) -> Sequence[ShardClient]:
        groups = [self._cluster.replicas(partition) for partition in self._cluster.partitions]
        clients = [replica.client for group in groups for replica in group]
        return [client for client in clients if client is not self._registrar]

    async def _open_on_others(
        self, name: str, space: CodeSpace, indexing: Indexing, incarnation: int, hash_file: bytes, deadline: float
    ) -> bool:
        """Creates the collection on the other shards: on at least as many replicas of each partition as a write
        needs. Returns whether any of them did not have it yet."""
        open_on = [
            (client, client.open_collection(name, space, indexing, incarnation, False, hash_file, deadline))
            for client in self._others()
        ]
        answers = await asyncio.gather(*(call for _, call in open_on), return_exceptions=True)
        opened = {_REGISTRAR: 1}
        failures: list[BaseException] = []
        created = False
        for (client, _), answer in zip(open_on, answers, strict=True):
            if isinstance(answer, BaseException):
                failures.append(answer)
                if not isinstance(answer, PartitionUnavailable):
                    raise answer
                continue
            created = created or answer[0]
            opened[client.partition] = opened.get(client.partition, 0) + 1
        for partition in self._cluster.partitions:
            if failures and opened.get(partition, 0) < self._cluster.group(partition).writes_needed:
                raise failures[0]
        return created


def sum_up(states: Mapping[int, ShardState | LookalikeError]) -> list[Collection]:
    """Returns the collections that exist, ordered by name, with their rows summed over the partitions that
    answered. If partition 0 did not answer, or a collection is damaged there, the latest incarnations on the
    other partitions decide."""
    first = states[_REGISTRAR]
    decisive = list(_collections(states.values()))
    if isinstance(first, ShardState):
        damaged = [collection for collection in decisive if collection.name in first.damaged]
        decisive = [*first.collections, *damaged]
    chosen: dict[str, Collection] = {}
    for collection in decisive:
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
