"""Owns this coordinator's copy of the directory: which collection each name refers to.

The copy is used only while it is confirmed: at most `CONFIRMED_SECONDS` ago, shards were asked that must know
every change that was stored before. A change is acknowledged once it is stored on enough shards and
`CONFIRMED_SECONDS` have passed: then no coordinator uses an older copy. Only durations count, so clocks need not
agree."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import grpc

from coordinator.cluster import POLL_SECONDS, Cluster
from coordinator.replica import Replica
from lookalike.cluster.directory import Change, Directory, Kind
from lookalike.model.errors import LookalikeError, NotFound, PartitionUnavailable
from lookalike.model.records import Collection, check_collection_name
from lookalike.model.ttl import Ttl
from lookalike.server.shard_client import ShardClient

# The partition whose first replica, the registrar, decides changes.
_REGISTRAR = 0
CONFIRMED_SECONDS = 3.0
# In case the clocks of two machines run at different rates.
_MARGIN_SECONDS = 0.05
_RESERVED_SHARE = 0.1
_RESERVED_MAX_SECONDS = 0.5

Result = TypeVar("Result")

log = logging.getLogger("coordinator.names")


class Names:
    """The names of collections. Deadlines are times of the running loop's clock."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster = cluster
        self._clock = clock
        self._directory = Directory()
        self._confirmed_at = self._failed_at = float("-inf")
        cluster.on_states = self._update

    async def stored(self, name: str, deadline: float) -> str:
        """Returns the name that the shards store a collection under. The collection may not exist.

        Args:
            name: The collection's name, or an alias.

        Raises:
            NotFound: If the collection that was stored under this name has another name.
            PartitionUnavailable: If the name may be outdated, and too few shards answer to find out.
        """
        check_collection_name(name)
        directory = await self.confirmed(deadline)
        if directory is None:
            directory = self._directory
            if directory.mentions(name):
                raise PartitionUnavailable(
                    f"collection: too few shards answer to find out what {name!r} refers to; retry in a moment"
                )
        stored = directory.stored(name)
        if stored is None:
            raise NotFound(f"collection: {name!r} does not exist; create it first")
        return stored

    async def own(self, name: str, verb: str, deadline: float) -> str:
        """Returns what `stored` returns, for a name that is not an alias. Raises InvalidRequest for an alias."""
        stored = await self.stored(name, deadline)
        self._directory.require_own(name, verb)
        return stored

    async def confirmed(self, deadline: float) -> Directory | None:
        """Returns the directory, with every change that was acknowledged before this call; None if too few shards
        answer to be sure."""
        loop = asyncio.get_running_loop()
        # The first refresh may have been in progress already, with answers that are too old.
        for _ in range(2):
            # After a failure, the next poll in the background comes soon, and requests need not wait for another.
            if self._is_confirmed or self._clock() - self._failed_at < POLL_SECONDS:
                break
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._cluster.refresh(), max(0.0, deadline - loop.time()))
        if self._is_confirmed:
            return self._directory
        if self._clock() - self._failed_at >= POLL_SECONDS:
            self._failed_at = self._clock()
        return None

    def described(self, collection: Collection) -> Collection:
        """Returns a collection with its name instead of its stored name, its aliases and its TTL."""
        stored, directory = collection.name, self._directory
        return dataclasses.replace(
            collection,
            name=directory.shown(stored),
            aliases=tuple(directory.aliases_of(stored)),
            ttl=directory.ttls.get(stored),
        )

    def all_described(self, collections: Iterable[Collection]) -> list[Collection]:
        """Returns what `described` returns for each collection, ordered by name."""
        return sorted(map(self.described, collections), key=lambda collection: collection.name)

    def shown(self, stored: str) -> str:
        """Returns the name of the collection that is stored under `stored`."""
        return self._directory.shown(stored)

    async def aliases(self, deadline: float) -> dict[str, str]:
        """Returns the name of each alias's collection. Raises PartitionUnavailable if too few shards answer."""
        directory = await self.confirmed(deadline)
        if directory is None:
            raise PartitionUnavailable("alias: too few shards answer to list the aliases; retry in a moment")
        return {alias: directory.shown(stored) for alias, stored in sorted(directory.aliases.items())}

    async def change(self, change: Change, deadline: float) -> Directory:
        """Changes the directory. When this returns, every later request to any coordinator sees the change.

        Raises:
            AlreadyExists, NotFound, InvalidRequest: See `Directory.changed`.
            PartitionUnavailable: If the registrar, or too many replicas of a partition, do not answer. The change
                may have been made, and may be repeated.
        """
        await self._cluster.refresh()
        loop = asyncio.get_running_loop()
        # An error that names the partition must be back before the client's own deadline ends the call.
        deadline -= min(_RESERVED_MAX_SECONDS, (deadline - loop.time()) * _RESERVED_SHARE)
        before = self._directory
        after = await self._registrar.change_directory(change, before, deadline)
        is_new_ttl = change.kind is Kind.SET_TTL and (before.stored(change.name) or "") not in before.ttls
        await self.publish(after, deadline, wait=not is_new_ttl)
        return after

    async def set_ttl(self, name: str, ttl: Ttl | None, deadline: float) -> None:
        """Sets when the records of a collection expire. Raises what `change` raises."""
        await self.change(Change(Kind.SET_TTL, name, ttl=ttl), deadline)

    async def publish(self, directory: Directory, deadline: float, wait: bool = True) -> None:
        """Stores a directory that the registrar decided on the other shards.

        Args:
            directory: The directory.
            deadline: When to give up.
            wait: Whether to wait until no coordinator uses an earlier one.

        Raises:
            PartitionUnavailable: If too many replicas of a partition do not answer.
        """
        others = [found for found in self._cluster.all_replicas.values() if found.client != self._registrar]
        answers = await asyncio.gather(*(_store(replica, directory, deadline) for replica in others))
        stored = {_REGISTRAR: 1}
        for replica, is_stored in zip(others, answers, strict=True):
            stored[replica.partition] = stored.get(replica.partition, 0) + is_stored
        for partition in self._cluster.partitions:
            if stored.get(partition, 0) < self._cluster.group(partition).writes_needed:
                raise PartitionUnavailable(
                    f"partition {partition}: too few replicas answer to acknowledge the change; repeat it, which"
                    " is harmless"
                )
        if wait:
            await asyncio.sleep(CONFIRMED_SECONDS + _MARGIN_SECONDS)
        self._directory = self._directory.latest(directory)

    @property
    def _registrar(self) -> ShardClient:
        return self._cluster.replicas(_REGISTRAR)[0].client

    @property
    def _is_confirmed(self) -> bool:
        return self._clock() - self._confirmed_at < CONFIRMED_SECONDS

    def _update(self, replicas: Sequence[Replica]) -> None:
        """Adopts what the shards reported. Once a new shard is ready, it knows the directory."""
        polled: dict[int, list[float]] = {}
        for replica in replicas:
            state = replica.health.last_state
            if state is None or not state.is_ready:
                continue
            self._directory = self._directory.latest(state.directory)
            polled.setdefault(replica.partition, []).append(replica.health.polled_at)
            if (replica.partition, replica.replica) == (_REGISTRAR, 0):
                self._confirmed_at = max(self._confirmed_at, replica.health.polled_at)
        for partition, times in polled.items():
            group = self._cluster.group(partition)
            # A change is stored on W of the R replicas, so any R - W + 1 of them include one that knows it.
            needed = len(group.replicas) - group.writes_needed + 1
            if len(times) >= needed:
                self._confirmed_at = max(self._confirmed_at, sorted(times, reverse=True)[needed - 1])


async def _store(replica: Replica, directory: Directory, deadline: float) -> bool:
    try:
        state = await replica.client.state(directory=directory, deadline=_soon(deadline))
    except LookalikeError as error:
        log.info("the directory is not stored everywhere yet: %s", error.message)
        return False
    return state.directory.version >= directory.version


def _soon(deadline: float) -> float:
    return min(deadline, asyncio.get_running_loop().time() + 2.0)


Handler = Callable[[Any, Any, grpc.aio.ServicerContext[Any, Any]], Awaitable[Result]]


def resolving(field: str, deadline_of: Callable[[Any], float]) -> Callable[[Handler[Result]], Handler[Result]]:
    """Decorates a handler of a servicer with `names`: the request's field, which has a collection's name or alias,
    gets the stored name, and errors name the collection as the client does.

    Args:
        field: The field.
        deadline_of: Returns the deadline of a call's context.
    """

    def decorate(handler: Handler[Result]) -> Handler[Result]:
        @functools.wraps(handler)
        async def resolved(self: Any, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Result:
            name = getattr(request, field)
            stored = await self.names.stored(name, deadline_of(context))
            setattr(request, field, stored)
            if stored == name:
                return await handler(self, request, context)
            try:
                return await handler(self, request, context)
            except LookalikeError as error:
                raise renamed_error(error, stored, name) from None

        return resolved

    return decorate


def renamed_error(error: LookalikeError, stored: str, name: str) -> LookalikeError:
    """Returns the error with a collection's name instead of its stored name."""
    message = error.message.replace(repr(stored), repr(name))
    return type(error)(message, retry_after_ms=error.retry_after_ms)
