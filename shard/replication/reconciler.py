"""Owns the loop that keeps a shard in step with the cluster: the order of the steps, and the pauses between
rounds.

Every step is recorded in the slot table on disk before it affects other shards, and can safely be repeated. So
the process may end at any point: after a restart, the loop continues from that point."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from lookalike.model.errors import LookalikeError
from lookalike.server.config import ClusterConfig
from lookalike.server.observe import metrics
from lookalike.server.peer_channels import PeerChannels
from shard.executor import ShardExecutor
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.replication.become_ready import become_ready
from shard.replication.context import Context
from shard.replication.follow import follow
from shard.replication.gossip import Gossip
from shard.replication.join import join, propose_target
from shard.replication.reclaim import reclaim
from shard.replication.recover import recover
from shard.replication.repair import Repair
from shard.replication.transfer import Transfer

log = logging.getLogger("shard.replication")
FORMING_SECONDS = 0.2
MOVING_SECONDS = 0.1


class Reconciler:
    """Runs concurrently with the gRPC server until cancelled.

    Args:
        on_ready: Called once, with True, when the shard begins to answer reads.
    """

    def __init__(
        self,
        node: Node,
        executor: ShardExecutor,
        readiness: ReadinessTracker,
        config: ClusterConfig,
        peer_channels: PeerChannels,
        on_ready: Callable[[bool], Awaitable[None]],
    ) -> None:
        self._context = Context(node, executor, readiness, config, peer_channels)
        self._on_ready = on_ready
        self._gossip = Gossip()
        self._repair = Repair(node.folder)
        self._transfer = Transfer()
        self._wakeup = asyncio.Event()

    async def run(self) -> None:
        self._repair.restore_freshness(self._context)
        await propose_target(self._context)
        try:
            while True:
                pause = await self._round_or_log()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wakeup.wait(), pause)
                self._wakeup.clear()
        finally:
            await self._context.close()

    async def reload(self, config: ClusterConfig) -> None:
        """Continues with a config that has changed."""
        self._context.config = config
        await propose_target(self._context)
        self._gossip.ask_all_next()
        self._wakeup.set()

    def gauges(self) -> Iterator[metrics.Sample]:
        """The progress of replication, as metrics."""
        return self._repair.gauges(self._context)

    async def _round_or_log(self) -> float:
        """Runs a round; logs its error if it fails. Returns the pause before the next round, in seconds."""
        try:
            return await self._round()
        except LookalikeError as error:
            log.info("will retry: %s", error.message)
        except Exception:
            log.exception("a round of replication failed")
        return FORMING_SECONDS

    async def _round(self) -> float:
        context, began = self._context, time.monotonic()
        await self._gossip.exchange(context, began)
        if not context.node.membership.is_formed:
            if not await join(context):
                return FORMING_SECONDS
            self._gossip.ask_all_next()
            return 0.0
        await follow(context)
        await recover(context)
        compared = await self._repair.run(context, began)
        if await become_ready(context, compared):
            await self._on_ready(True)
        is_moving = await self._transfer.run(context)
        await reclaim(context)
        if not context.readiness.is_ready or is_moving:
            return MOVING_SECONDS
        return float(context.config.shard.sync_seconds)
