"""Owns the reports of a shard about itself: its state for coordinators and other shards, and its gauges for
metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from lookalike.cluster.shard_state import CollectionDigest, ShardState
from lookalike.cluster.slots import SlotSet, SlotState
from lookalike.server.observe import metrics
from shard.engine import Engine
from shard.node import Node
from shard.process_memory import held_bytes
from shard.readiness import ReadinessTracker


class ShardStatus:
    """Reads a node and its readiness."""

    def __init__(self, node: Node, readiness: ReadinessTracker) -> None:
        self._node = node
        self._readiness = readiness
        self._started = time.monotonic()

    def state(self, slots: SlotSet | None = None, include_digests: bool = False) -> ShardState:
        """Returns the shard's state.

        Args:
            slots: The slots whose rows are counted; by default those that are served.
            include_digests: Whether to add the digests of all collections.
        """
        node, membership, readiness = self._node, self._node.membership, self._readiness
        engines = node.engines() if readiness.is_loaded else {}
        foreign = ~membership.table.writable
        return ShardState(
            cluster=membership.identity.cluster,
            partition=membership.identity.partition,
            replica=membership.identity.replica,
            collections=node.collections(membership.table.serving if slots is None else slots),
            memory_bytes=held_bytes(),
            uptime_seconds=time.monotonic() - self._started,
            instance=membership.instance,
            is_formed=membership.is_formed,
            founders=membership.founders,
            target=membership.target,
            table=membership.table,
            readiness=readiness.state,
            reason=readiness.reason,
            stale_ms=readiness.stale_ms,
            newest_version=max((engine.newest_version for engine in engines.values()), default=0),
            dropped=membership.dropped,
            damaged=node.damaged(),
            rows_left_over=sum(int(engine.sums.rows[foreign].sum()) for engine in engines.values()),
            digests=self._digests(engines) if include_digests else {},
            directory=membership.directory,
        )

    def gauges(self) -> Iterator[metrics.Sample]:
        """The state as metrics."""
        identity, node, table = self._node.identity, self._node, self._node.table
        place = (str(identity.partition), str(identity.replica))
        for state in SlotState:
            yield metrics.SLOTS, (*place, state.name.lower()), int(table.slots_in(state).sum())
        if not self._readiness.is_loaded:
            return
        yield metrics.STALE_SECONDS, place, self._readiness.stale_ms / 1000
        yield metrics.QUARANTINED, place, len(node.damaged())
        engines = node.engines()
        yield (
            metrics.ROWS_LEFT_OVER,
            place,
            sum(int(engine.sums.rows[~table.writable].sum()) for engine in engines.values()),
        )
        for name, engine in metrics.by_collection(engines).items():
            yield metrics.ROWS, (name, *place), sum(int(one.sums.live[table.serving].sum()) for one in engine)
            yield metrics.COLLECTION_BYTES, (name, *place), sum(one.memory_bytes for one in engine)

    def _digests(self, engines: Mapping[str, Engine]) -> dict[str, CollectionDigest]:
        return {
            name: CollectionDigest(
                self._node.incarnation(name) or 0,
                engine.sums.digests,
                engine.sums.rows,
                engine.horizon,
                self._node.has_hash(name),
            )
            for name, engine in engines.items()
        }
