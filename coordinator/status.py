"""Owns the cluster's status: what every process reports now, and which processes do not answer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from importlib.metadata import version

import numpy as np
from prometheus_client import Counter, Histogram
from prometheus_client.samples import Sample

from coordinator.catalog import sum_up
from coordinator.cluster import Cluster
from coordinator.encoders import Encoders
from coordinator.replica import Replica
from lookalike.cluster.shard_state import ShardState
from lookalike.cluster.slots import SlotState
from lookalike.model.errors import LookalikeError
from lookalike.model.status import (
    ClusterStatus,
    CoordinatorStatus,
    PartitionStatus,
    Rebalance,
    ReplicaStatus,
)
from lookalike.server.observe import metrics

STATUS_TIMEOUT_SECONDS = 2.0


async def cluster_status(cluster: str, view: Cluster, encoders: Encoders, own: CoordinatorStatus) -> ClusterStatus:
    """Asks every process. A process that does not answer within `STATUS_TIMEOUT_SECONDS` counts as unavailable."""
    deadline = asyncio.get_running_loop().time() + STATUS_TIMEOUT_SECONDS
    await view.refresh()
    every, states, (default, others) = await asyncio.gather(
        view.every_state(deadline), view.states(deadline), encoders.statuses(deadline)
    )
    owners = view.target.owners()
    partitions = []
    for partition in view.partitions:
        found = [(replica, state) for replica, state in every if replica.partition == partition]
        target_slots = int((owners == partition).sum())
        partitions.append(
            PartitionStatus(
                partition,
                int(view.routing.slots_of(partition).sum()),
                [_replica(replica, state) for replica, state in found],
                target_slots,
                not target_slots and bool(found) and all(_is_empty(state) for _, state in found),
            )
        )
    rebalance = _rebalance(view, [state for _, state in every])
    return ClusterStatus(
        cluster, version("lookalike"), partitions, default, sum_up(states), rebalance, own, others
    )


def coordinator_status(name: str, uptime_seconds: float) -> CoordinatorStatus:
    """Returns how many searches this process has answered, and how fast, from its metrics."""
    queries = sum(sample.value for sample in _samples(metrics.QUERIES, "_total"))
    up_to = [
        (float(sample.labels["le"]), int(sample.value)) for sample in _samples(metrics.TOTAL_SECONDS, "_bucket")
    ]
    at_most = [count for _, count in up_to]
    return CoordinatorStatus(
        name,
        uptime_seconds,
        int(queries),
        [seconds * 1000 for seconds, _ in up_to[:-1]],
        [after - before for before, after in itertools.pairwise((0, *at_most))],
    )


def _samples(metric: Counter | Histogram, suffix: str) -> Iterator[Sample]:
    return (found for family in metric.collect() for found in family.samples if found.name.endswith(suffix))


def cluster_gauges(view: Cluster) -> Iterator[metrics.Sample]:
    """Yields the gauges of the cluster, as of the last poll."""
    states = []
    for (partition, number), replica in view.all_replicas.items():
        place = (str(partition), str(number))
        yield metrics.REPLICA_LIVE, place, replica.health.is_live
        if (state := replica.health.last_state) is not None:
            states.append(state)
            yield metrics.REPLICA_LAG, place, state.stale_ms / 1000
    found = _rebalance(view, states)
    yield metrics.PARTITIONS, (), found.partitions
    yield metrics.SLOTS_TO_MOVE, (), found.slots_to_move
    yield metrics.SLOTS_MOVING, (), found.slots_moving
    yield metrics.SLOTS_UNSERVED, (), found.slots_unserved


def _rebalance(view: Cluster, states: Iterable[ShardState | LookalikeError]) -> Rebalance:
    routing, target = view.routing, view.target
    displaced = routing.served & (routing.owners != target.owners())
    moving = np.zeros_like(displaced)
    for state in states:
        if isinstance(state, ShardState):
            table = state.table
            arriving = table.slots_in(SlotState.RECEIVING, SlotState.RECEIVED, SlotState.TAKING)
            moving |= arriving & (table.partners != table.own)
    return Rebalance(
        target.epoch,
        target.partitions,
        target.drained,
        int((displaced | moving).sum()),
        int(moving.sum()),
        int((~routing.served).sum()),
    )


def _is_empty(state: ShardState | LookalikeError) -> bool:
    return isinstance(state, ShardState) and not state.table.writable.any() and not state.rows_left_over


def _replica(replica: Replica, state: ShardState | LookalikeError) -> ReplicaStatus:
    if not isinstance(state, ShardState):
        return ReplicaStatus(replica.replica, replica.client.address, "unavailable", state.message, 0, 0, 0.0)
    rows = sum(collection.rows for collection in state.collections)
    return ReplicaStatus(
        replica.replica,
        replica.client.address,
        "serving" if state.is_ready else "recovering",
        state.reason,
        rows,
        state.memory_bytes,
        state.uptime_seconds,
        state.stale_ms,
        [f"{name}: {reason}" for name, reason in state.damaged.items()],
    )
