"""Owns what the steps of replication share: the node, its executor and readiness, the config, the connections to
other shards, and what each of those shards reported in this round.

A sibling is another replica of this shard's own partition."""

from __future__ import annotations

import time
from collections.abc import Callable

from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotTable
from lookalike.server.config import ClusterConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.shard_client import ShardClient
from shard.executor import ShardExecutor
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.replication.moves import Place, Quorum
from shard.replication.pull import Puller, Throttle


class Context:
    """What the steps of replication share.

    Attributes:
        config: The cluster's config; replaced on reload.
        states: What the shards that answered the last gossip round reported, by (partition, replica).
        puller: Copies rows from other shards.
        throttle: Limits the bytes per second that are used to move slots.
        started: When replication was set up, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        node: Node,
        executor: ShardExecutor,
        readiness: ReadinessTracker,
        config: ClusterConfig,
        peer_channels: PeerChannels,
    ) -> None:
        self.node = node
        self.executor = executor
        self.readiness = readiness
        self.config = config
        self.states: dict[Place, ShardState] = {}
        self.puller = Puller(node, executor)
        self.throttle = Throttle(config.shard.rebalance_mb_per_second * 1e6)
        self.started = time.monotonic()
        self.partition = node.identity.partition
        self.place: Place = (self.partition, node.identity.replica)
        self._peer_channels = peer_channels
        self._peers: dict[Place, ShardClient] = {}

    @property
    def quorum(self) -> Quorum:
        return Quorum(self.config.replicas, self.config.writes_needed)

    def peer(self, place: Place) -> ShardClient:
        """Returns the connection to a shard, opened at first use."""
        if place not in self._peers:
            self._peers[place] = ShardClient(*place, self.config.shard_address(*place), self._peer_channels)
        return self._peers[place]

    def sibling_places(self) -> list[Place]:
        """All siblings that the config names, whether they answered or not."""
        places = [(self.partition, replica) for replica in range(self.config.replicas)]
        return [place for place in places if place != self.place]

    def sibling_tables(self) -> dict[Place, SlotTable]:
        """The slot tables of the siblings that answered and belong to the cluster."""
        return {place: table for place, table in self.tables().items() if place[0] == self.partition}

    def tables(self) -> dict[Place, SlotTable]:
        """The slot tables of all shards that answered and belong to the cluster."""
        return {place: state.table for place, state in self.states.items() if state.is_formed}

    async def change_table(self, step: Callable[[SlotTable], SlotTable]) -> None:
        """Changes this shard's slot table, between commits. The change is on disk when this method returns."""
        await self.executor.mutate(lambda: self.node.change_table(step))

    async def close(self) -> None:
        """Closes the connections; if the replication loop restarts after an error, `peer` opens them again."""
        for peer in self._peers.values():
            await peer.close()
        self._peers.clear()
