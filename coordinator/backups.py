"""Owns the choice of the replica that serves a part of a backup.

A backup is taken partition by partition: each call returns one partition's records of the requested slots, and the
caller requests the remaining slots in the next call. So a slot that moves between two calls is found at its new
partition; a slot that moves during a call fails that call."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from coordinator.cluster import Cluster
from coordinator.replica import Replica
from coordinator.replicas import ReplicaGroup, is_fault_of_replica
from lookalike import wire
from lookalike.cluster.dump import Mark
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound, PartitionUnavailable
from lookalike.model.records import SLOTS, check_collection_name
from lookalike.v1 import shard_pb2

# A replica with a lower penalty is healthy or lags; a replica that lags catches up before it sends anything.
_MAX_PENALTY = 2


async def dump(cluster: Cluster, request: shard_pb2.DumpRequest) -> AsyncIterator[shard_pb2.DumpPart]:
    """Streams one partition's part of a backup."""
    collection = check_collection_name(request.collection)
    wanted = wire.slots_from_wire(request.slots)
    if not wanted.any():
        raise InvalidRequest("slots: empty; request the slots that the backup still lacks")
    if len(request.since) > SLOTS:
        raise InvalidRequest(f"since: {len(request.since):,} marks; send at most {SLOTS:,}")
    marks = [wire.mark_from_wire(mark) for mark in request.since]
    await cluster.refresh()
    routing = cluster.routing
    if not (wanted & routing.served).any():
        owner = int(routing.owners[wanted.argmax()])
        raise PartitionUnavailable(f"partition {owner}: no live replica serves it; retry in a moment")
    partition = int(routing.owners[(wanted & routing.served).argmax()])
    slots = wanted & routing.slots_of(partition)
    since = [mark for mark in marks if mark.partition == partition]
    inner = wire.dump_request_to_wire(collection, slots, since)
    tried: list[Replica] = []
    failure: LookalikeError = PartitionUnavailable(f"partition {partition} has no replicas")
    while (replica := _choose(cluster.group(partition), since, tried)) is not None:
        tried.append(replica)
        has_started = False
        try:
            async for part in replica.client.dump(inner):
                has_started = True
                yield part
            return
        except LookalikeError as error:
            if not isinstance(error, NotFound | InvalidRequest):
                replica.health.mark_failed(error)
            if has_started:
                raise PartitionUnavailable(f"{error.message}; discard what was received of this part") from error
            if not is_fault_of_replica(error):
                raise
            failure = error
    raise failure


def _choose(group: ReplicaGroup, since: Sequence[Mark], tried: Sequence[Replica]) -> Replica | None:
    """Returns the replica that made the earlier dump (a mark in `since` names it), if it is healthy and was not
    tried: only this replica can send the changes since that dump. Otherwise returns the best replica that was not
    tried."""
    known = {mark.replica for mark in since}
    for replica in group.replicas:
        if replica.replica in known and replica.health.penalty < _MAX_PENALTY and replica not in tried:
            return replica
    return group.choose(tried)
