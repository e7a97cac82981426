"""Owns the coordinator's view of the cluster: a link to every shard that there may be, what each said last, and
the routing that follows from it.

Which partitions there are comes from the shards. The config only says where to look first, so a coordinator whose
config is old finds what has moved all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from coordinator.replicas import ReplicaGroup
from coordinator.routing import Place, Routing
from coordinator.shard_link import ShardLink
from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotTable, partitions_named, served_by_any, slots_to_bytes
from lookalike.model.errors import LookalikeError, Recovering
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig
from lookalike.server.peer_channels import PeerChannels

POLL_SECONDS = 1.0
POLL_TIMEOUT_SECONDS = 1.0
# How long a refresh waits for shards that were silent the last time.
_SILENT_SECONDS = 0.1
# How long a search waits for a shard's state before it goes to another replica.
_STATE_SECONDS = 2.0


class Cluster:
    """Every shard of the cluster, by partition and replica."""

    def __init__(self, config: ClusterConfig, peer_channels: PeerChannels) -> None:
        self._config = config
        self._peer_channels = peer_channels
        self._groups: dict[int, ReplicaGroup] = {}
        self._links: dict[Place, ShardLink] = {}
        self._tables: dict[Place, SlotTable] = {}
        self._target = Target(0, config.partitions)
        self._watches: dict[Place, asyncio.Task[None]] = {}
        self._polls: dict[Place, asyncio.Task[None]] = {}
        self._finishing: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._observed = 0
        self.on_version: Callable[[int], None] = lambda version: None
        self.routing = Routing.of({}, frozenset(), self._target)

    async def start(self, background: BackgroundTasks) -> None:
        """Polls every shard once, and starts to poll and watch them in the background."""
        self._background = background
        self._look_for_partitions()
        await self.refresh()
        self._poller = background.start("cluster poll", self._poll)

    async def reload(self, config: ClusterConfig) -> None:
        """Go on with another config: with other partitions, replicas or quorum."""
        self._config = config
        for place in [place for place in self._links if place[1] >= config.replicas]:
            self._groups[place[0]].links.remove(self._links[place])
            self._let_go(place)
        for group in self._groups.values():
            group.writes_needed = config.writes_needed
        self._look_for_partitions()
        await self.refresh()

    async def close(self) -> None:
        tasks = [*self._watches.values(), *self._polls.values(), *self._finishing]
        tasks += [task for task in (self._poller, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for group in self._groups.values():
            await group.close()
        for link in self._links.values():
            await link.close()

    @property
    def target(self) -> Target:
        """How the cluster shall be divided, as far as is known."""
        return self._target

    @property
    def partitions(self) -> list[int]:
        """All that there are, in order: those of the target and those that still hold something."""
        return sorted(self._groups)

    def group(self, partition: int) -> ReplicaGroup:
        if partition not in self._groups:
            self._add(partition)
        return self._groups[partition]

    async def refresh(self) -> None:
        """Ask every shard what it is now, and route by that. Callers that come meanwhile share it."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def tell(self, target: Target) -> int:
        """Tell every shard of a target. Returns how many have taken it over."""
        told = 0
        for state in await asyncio.gather(*(self._state(link, target) for link in self._links.values())):
            told += isinstance(state, ShardState) and state.is_formed and state.target.order >= target.order
        await self.refresh()
        return told

    async def states(self, deadline: float) -> dict[int, ShardState | LookalikeError]:
        """Of each partition what one of its replicas says, waiting only so long that a silent one leaves time for
        the rest. Rows are counted over the slots that the partition is asked for."""
        if not self.routing.served.all():
            await self.refresh()
        now = asyncio.get_running_loop().time()
        deadline = now + min(_STATE_SECONDS, (deadline - now) / 2)

        async def state(partition: int) -> ShardState | LookalikeError:
            slots = slots_to_bytes(self.routing.owners == partition)

            async def ask(link: ShardLink) -> ShardState:
                found = await link.state(deadline, None, slots)
                if not found.is_ready:
                    raise Recovering(found.reason)
                return found

            try:
                return await self.group(partition).first(ask, deadline)
            except LookalikeError as error:
                return error

        partitions = self.partitions
        return dict(zip(partitions, await asyncio.gather(*map(state, partitions)), strict=True))

    async def every_state(self, deadline: float) -> list[tuple[ShardLink, ShardState | LookalikeError]]:
        """What every shard says of itself, or why it does not, in order of partition and replica."""
        # Shards may come and go meanwhile.
        links = [link for _, link in sorted(self._links.items())]
        answers = await asyncio.gather(*(self._state_by(link, deadline) for link in links))
        return list(zip(links, answers, strict=True))

    @property
    def links(self) -> dict[Place, ShardLink]:
        """To every shard that there may be."""
        return self._links.copy()

    def replicas(self, partition: int) -> Sequence[ShardLink]:
        return self.group(partition).links

    async def _state_by(self, link: ShardLink, deadline: float) -> ShardState | LookalikeError:
        try:
            return await link.state(deadline)
        except LookalikeError as error:
            return error

    async def _state(self, link: ShardLink, target: Target) -> ShardState | LookalikeError:
        deadline = asyncio.get_running_loop().time() + POLL_TIMEOUT_SECONDS
        try:
            return await link.state(deadline, target)
        except LookalikeError as error:
            return error

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    async def _refresh(self) -> None:
        told = self._target if self._target.epoch else None
        silent: list[asyncio.Task[None]] = []
        for place, link in list(self._links.items()):
            if place not in self._polls or self._polls[place].done():
                self._polls[place] = asyncio.create_task(link.poll(told, POLL_TIMEOUT_SECONDS))
            if link.last_state is None and place in self._tables:
                silent.append(self._polls[place])
        talking = [task for task in self._polls.values() if task not in silent]
        if talking:
            await asyncio.wait(talking, timeout=POLL_TIMEOUT_SECONDS)
        if silent:
            await asyncio.wait(silent, timeout=_SILENT_SECONDS)
        self._learn()

    def _learn(self) -> None:
        for place, link in list(self._links.items()):
            state = link.last_state
            if state is None or state.cluster != self._config.cluster or not state.is_formed:
                continue
            self._tables[place] = state.table
            if state.target.order > self._target.order:
                self._target = state.target
            if state.newest_version > self._observed:
                self._observed = state.newest_version
                self.on_version(state.newest_version)
        self._look_for_partitions()
        live = frozenset(place for place, link in self._links.items() if link.is_live)
        self.routing = Routing.of(self._tables, live, self._target)

    def _look_for_partitions(self) -> None:
        named = partitions_named(list(self._tables.values()))
        count = max(self._config.partitions if not self._target.epoch else 0, self._target.partitions, named)
        if not served_by_any(self._tables.values()).all():
            count = max(count, self._target.formerly)
        for partition in range(count):
            self._add(partition)
        for partition in [known for known in self._groups if known >= count]:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        """Let go of a partition that holds nothing and shall hold nothing."""
        for place in [place for place in self._links if place[0] == partition]:
            self._let_go(place)
        self._groups.pop(partition)

    def _let_go(self, place: Place) -> None:
        """Ask a shard nothing more."""
        link = self._links.pop(place)
        self._tables.pop(place, None)
        self._watches.pop(place).cancel()
        if place in self._polls:
            self._polls.pop(place).cancel()
        task = asyncio.get_running_loop().create_task(link.finish())
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _add(self, partition: int) -> None:
        group = self._groups.setdefault(partition, ReplicaGroup(partition, self._config.writes_needed))
        for replica in range(len(group.links), self._config.replicas):
            link = ShardLink(
                partition, replica, self._config.shard_address(partition, replica), self._peer_channels
            )
            group.links.append(link)
            self._links[partition, replica] = link
            self._watches[partition, replica] = self._background.start(
                f"health watch of shard r{replica}-{partition}", link.watch
            )
