"""Owns the coordinator's view of the cluster: every shard that may exist, what each reported last, and the routing
derived from these reports.

The shards know which partitions exist. The config only names where to look first, so a coordinator with an old
config still finds what has moved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from coordinator.replica import Replica
from coordinator.replicas import ReplicaGroup
from coordinator.routing import Place, Routing
from lookalike.cluster.placement import Target
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotTable, partitions_named, served_by_any, slots_to_bytes
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound, PartitionUnavailable, Recovering
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.shard_client import ShardClient

POLL_SECONDS = 1.0
POLL_TIMEOUT_SECONDS = 1.0
# How long a refresh waits for shards that did not answer the previous poll.
_SILENT_SECONDS = 0.1
# How long to wait for one replica's state.
_STATE_SECONDS = 2.0


class Cluster:
    """Every shard of the cluster, by partition and replica. Deadlines are times of the running loop's clock."""

    def __init__(self, config: ClusterConfig, peer_channels: PeerChannels) -> None:
        self._config = config
        self._peer_channels = peer_channels
        self._groups: dict[int, ReplicaGroup] = {}
        self._replicas: dict[Place, Replica] = {}
        self._tables: dict[Place, SlotTable] = {}
        self._target = Target(0, config.partitions)
        self._watches: dict[Place, asyncio.Task[None]] = {}
        self._polls: dict[Place, asyncio.Task[None]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._refreshing: asyncio.Task[None] | None = None
        self._poller: asyncio.Task[None] | None = None
        self._observed = 0
        self.on_version: Callable[[int], None] = lambda version: None
        # Called after each refresh with the replicas that answered and belong to the cluster.
        self.on_states: Callable[[Sequence[Replica]], None] = lambda replicas: None
        self.routing = Routing.of({}, frozenset(), self._target)

    async def start(self, background: BackgroundTasks) -> None:
        """Polls every shard once, and starts to poll and watch them in the background."""
        self._background = background
        self._update_partitions()
        await self.refresh()
        self._poller = background.start("cluster poll", self._poll)

    async def reload(self, config: ClusterConfig) -> None:
        """Applies another config: other partitions, replicas or quorum."""
        self._config = config
        for place in [place for place in self._replicas if place[1] >= config.replicas]:
            self._groups[place[0]].replicas.remove(self._replicas[place])
            self._retire(place)
        for group in self._groups.values():
            group.writes_needed = config.writes_needed
        self._update_partitions()
        await self.refresh()

    async def close(self) -> None:
        tasks = [*self._watches.values(), *self._polls.values(), *self._retiring]
        tasks += [task for task in (self._poller, self._refreshing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for group in self._groups.values():
            await group.close()
        for replica in self._replicas.values():
            await replica.client.close()

    @property
    def target(self) -> Target:
        """The newest known target: the intended distribution of slots over the partitions."""
        return self._target

    @property
    def partitions(self) -> list[int]:
        """All partitions, ascending: those of the target and those that still hold records."""
        return sorted(self._groups)

    def group(self, partition: int) -> ReplicaGroup:
        if partition not in self._groups:
            self._add(partition)
        return self._groups[partition]

    async def refresh(self) -> None:
        """Polls every shard and updates the routing. Concurrent callers share one refresh."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._refresh())
        await asyncio.shield(self._refreshing)

    async def publish(self, target: Target) -> int:
        """Sends a target to every shard. Returns how many shards adopted it."""
        deadline = asyncio.get_running_loop().time() + POLL_TIMEOUT_SECONDS
        states = await asyncio.gather(*(_state(replica, deadline, target) for replica in self._replicas.values()))
        await self.refresh()
        return sum(
            isinstance(state, ShardState) and state.is_formed and state.target.order >= target.order
            for state in states
        )

    async def drain(self, partition: int, undo: bool) -> int:
        """Publishes a target in which the partition holds nothing or, with `undo`, its share again.

        Returns:
            The number of slots that the partition still serves.

        Raises:
            InvalidRequest: If every partition would then be drained.
            NotFound: If the partition does not exist.
            PartitionUnavailable: If no shard answers.
        """
        await self.refresh()
        target = self._target
        if partition >= target.partitions:
            raise NotFound(f"partition: {partition} is not one of the {target.partitions} that the cluster has")
        drained = set(target.drained) - {partition} if undo else {*target.drained, partition}
        if len(drained) == target.partitions:
            raise InvalidRequest(f"partition: {partition} is the last that is not drained; add a partition first")
        if drained != set(target.drained):
            changed = target.followed_by(target.partitions, tuple(sorted(drained)))
            if not await self.publish(changed):
                raise PartitionUnavailable("no shard answers; see the cluster's status")
        return int(self.routing.slots_of(partition).sum())

    async def states(self, deadline: float) -> dict[int, ShardState | LookalikeError]:
        """Returns, for each partition, the state of one of its replicas, or the error if none returns it.

        Only rows of slots that are routed to the partition are counted. Waits for at most half the time left, so
        that a partition that does not answer leaves time for the rest of the request.
        """
        if not self.routing.served.all():
            await self.refresh()
        now = asyncio.get_running_loop().time()
        deadline = now + min(_STATE_SECONDS, (deadline - now) / 2)

        async def state(partition: int) -> ShardState | LookalikeError:
            slots = slots_to_bytes(self.routing.owners == partition)

            async def ask(client: ShardClient) -> ShardState:
                found = await client.state(slots=slots, deadline=deadline)
                if not found.is_ready:
                    raise Recovering(found.reason)
                return found

            try:
                return await self.group(partition).first(ask, deadline)
            except LookalikeError as error:
                return error

        partitions = self.partitions
        return dict(zip(partitions, await asyncio.gather(*map(state, partitions)), strict=True))

    async def every_state(self, deadline: float) -> list[tuple[Replica, ShardState | LookalikeError]]:
        """Returns every replica with its state, or the error, ordered by partition and replica."""
        # Copy the replicas, because they may come and go in the meantime.
        replicas = [replica for _, replica in sorted(self._replicas.items())]
        answers = await asyncio.gather(*(_state(replica, deadline) for replica in replicas))
        return list(zip(replicas, answers, strict=True))

    @property
    def all_replicas(self) -> dict[Place, Replica]:
        """Every replica that may exist."""
        return self._replicas.copy()

    def replicas(self, partition: int) -> Sequence[Replica]:
        return self.group(partition).replicas

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self.refresh()

    async def _refresh(self) -> None:
        target = self._target if self._target.epoch else None
        silent: list[asyncio.Task[None]] = []
        for place, replica in list(self._replicas.items()):
            if place not in self._polls or self._polls[place].done():
                self._polls[place] = asyncio.create_task(replica.poll(target, POLL_TIMEOUT_SECONDS))
            if replica.health.last_state is None and place in self._tables:
                silent.append(self._polls[place])
        answering = [task for task in self._polls.values() if task not in silent]
        if answering:
            await asyncio.wait(answering, timeout=POLL_TIMEOUT_SECONDS)
        if silent:
            await asyncio.wait(silent, timeout=_SILENT_SECONDS)
        self._apply_states()

    def _apply_states(self) -> None:
        members = []
        for place, replica in list(self._replicas.items()):
            state = replica.health.last_state
            if state is None or state.cluster != self._config.cluster or not state.is_formed:
                continue
            members.append(replica)
            self._tables[place] = state.table
            if state.target.order > self._target.order:
                self._target = state.target
            if state.newest_version > self._observed:
                self._observed = state.newest_version
                self.on_version(state.newest_version)
        self._update_partitions()
        live = frozenset(place for place, replica in self._replicas.items() if replica.health.is_live)
        self.routing = Routing.of(self._tables, live, self._target)
        self.on_states(members)

    def _update_partitions(self) -> None:
        named = partitions_named(list(self._tables.values()))
        count = max(self._config.partitions if not self._target.epoch else 0, self._target.partitions, named)
        if not served_by_any(self._tables.values()).all():
            count = max(count, self._target.formerly)
        for partition in range(count):
            self._add(partition)
        for partition in [known for known in self._groups if known >= count]:
            self._forget(partition)

    def _forget(self, partition: int) -> None:
        """Drops a partition that holds nothing and is not in the target."""
        for place in [place for place in self._replicas if place[0] == partition]:
            self._retire(place)
        self._groups.pop(partition)

    def _retire(self, place: Place) -> None:
        """Stops calling a replica."""
        replica = self._replicas.pop(place)
        self._tables.pop(place, None)
        self._watches.pop(place).cancel()
        if place in self._polls:
            self._polls.pop(place).cancel()
        task = asyncio.get_running_loop().create_task(replica.client.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _add(self, partition: int) -> None:
        group = self._groups.setdefault(partition, ReplicaGroup(partition, self._config.writes_needed))
        for number in range(len(group.replicas), self._config.replicas):
            address = self._config.shard_address(partition, number)
            replica = Replica(ShardClient(partition, number, address, self._peer_channels))
            group.replicas.append(replica)
            self._replicas[partition, number] = replica
            self._watches[partition, number] = self._background.start(
                f"health watch of shard r{number}-{partition}", replica.watch
            )


async def _state(replica: Replica, deadline: float, target: Target | None = None) -> ShardState | LookalikeError:
    try:
        return await replica.client.state(target, deadline=deadline)
    except LookalikeError as error:
        return error
