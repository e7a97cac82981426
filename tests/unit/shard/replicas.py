"""Owns shards that run in the test's own process and event loop, over unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from lookalike.server.admission import Admission
from lookalike.server.config import ClusterConfig, ShardConfig
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.serving import Server
from lookalike.v1 import shard_pb2_grpc
from shard import work
from shard.engine import Engine
from shard.executor import ShardExecutor
from shard.membership import Identity
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.replication.reconciler import Reconciler
from shard.server import ShardServicer
from shard.status import ShardStatus

SPACE = CodeSpace(64)
SECONDS = 20.0


class Shard:
    """One shard with its gRPC server. `replicate` starts the loop that keeps it in step with the others."""

    def __init__(self, config: ClusterConfig, partition: int, replica: int) -> None:
        folder = config.shard.data / f"r{replica}-{partition}"
        self.config = config
        self.node = Node(folder, Identity(config.cluster, partition, replica), config.partitions)
        self.executor = ShardExecutor(self.node)
        self.readiness = ReadinessTracker(partition)
        self.peer_channels = PeerChannels(config.security)
        self.admission = Admission(2**30)
        self.server = Server([], self.admission)
        status = ShardStatus(self.node, self.readiness)
        self.servicer = ShardServicer(self.node, self.executor, self.readiness, status, self.admission)
        shard_pb2_grpc.add_ShardServiceServicer_to_server(self.servicer, self.server.services)
        self.reconciler = Reconciler(
            self.node, self.executor, self.readiness, config, self.peer_channels, self.server.set_ready
        )
        self._loop: asyncio.Task[None] | None = None

    async def listen(self) -> None:
        """Answers status calls only, until `load`."""
        identity = self.node.identity
        await self.server.start(self.config.shard_address(identity.partition, identity.replica))

    async def load(self) -> None:
        await self.executor.load()
        self.readiness.mark_loaded()

    def replicate(self) -> None:
        self._loop = asyncio.create_task(self.reconciler.run())

    async def stop(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.server.grpc.stop(None)
        await self.executor.close()
        self.node.close()

    async def write(self, *keys: str) -> None:
        """Stores records in collection "c" of this shard alone; creates the collection."""
        if "c" not in self.node.engines():
            await self.executor.mutate(lambda: self.node.open_collection("c", SPACE, Indexing(), 1, False))
        records = [VersionedRecord(key, key.encode().ljust(8)[:8], "{}", 1) for key in keys]
        await self.executor.write(work.Write(self.engine, records, is_repair=True))

    @property
    def engine(self) -> Engine:
        return self.node.engine("c", include_filling=True)

    @property
    def rows(self) -> int:
        """The live rows of collection "c"; 0 if it does not exist."""
        return self.engine.rows if "c" in self.node.engines() else 0


class Shards:
    """The shards of one cluster."""

    def __init__(self, config: ClusterConfig) -> None:
        self.config = config
        self.all: list[Shard] = []

    async def start(self, partition: int, replica: int = 0) -> Shard:
        shard = Shard(self.config, partition, replica)
        self.all.append(shard)
        await shard.listen()
        await shard.load()
        return shard

    async def restart_without_loading(self, shard: Shard) -> Shard:
        """Stops a shard and starts it again; its collections are not in memory until `load`."""
        await shard.stop()
        self.all.remove(shard)
        identity = shard.node.identity
        again = Shard(self.config, identity.partition, identity.replica)
        self.all.append(again)
        await again.listen()
        return again

    async def reload(self, config: ClusterConfig) -> None:
        """Gives all shards another config."""
        self.config = config
        for shard in self.all:
            await shard.reconciler.reload(config)


@contextlib.asynccontextmanager
async def shards(partitions: int = 1, replicas: int = 1, write_quorum: str = "majority") -> AsyncIterator[Shards]:
    # Not pytest's folder: the path of a unix socket has at most 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        options = {
            **ShardConfig().model_dump(),
            "address": f"unix:{folder}/{{partition}}-{{replica}}",
            "data": Path(folder),
            "sync_seconds": 0.1,
        }
        config = ClusterConfig.model_validate(
            {
                "partitions": partitions,
                "replicas": replicas,
                "write_quorum": write_quorum,
                "shard": ShardConfig.model_construct(**options),
            }
        )
        cluster = Shards(config)
        try:
            yield cluster
        finally:
            await asyncio.gather(*(shard.stop() for shard in cluster.all))


async def until(condition: Callable[[], object]) -> None:
    """Waits for a condition; fails after SECONDS."""
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, "the condition did not come true in time"
        await asyncio.sleep(0.02)
