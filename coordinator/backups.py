"""Owns which replica gives a part of a backup.

A backup is taken partition by partition: each call is answered with what one partition has of the slots asked for,
and the caller comes again for the rest. So a slot that moves between two calls is found where it is then, and one
that moves during a call makes that call fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from coordinator.cluster import Cluster
from coordinator.replicas import ReplicaGroup, another_may_do_better
from coordinator.shard_link import ShardLink
from lookalike import wire
from lookalike.cluster.dump import Mark
from lookalike.model.errors import InvalidRequest, LookalikeError, NotFound, PartitionUnavailable
from lookalike.model.records import SLOTS, check_collection_name
from lookalike.v1 import shard_pb2

# A replica that is in order or lags; it catches up before it gives anything.
_RELUCTANT = 2


async def dump(cluster: Cluster, request: shard_pb2.DumpRequest) -> AsyncIterator[shard_pb2.DumpPart]:
    """Answer Backup."""
    collection = check_collection_name(request.collection)
    wanted = wire.slots_from_wire(request.slots)
    if not wanted.any():
        raise InvalidRequest("slots: are none; ask for those that the backup still lacks")
    if len(request.since) > SLOTS:
        raise InvalidRequest(f"since: has {len(request.since):,} marks; a backup has at most {SLOTS:,}")
    marks = [wire.mark_from_wire(mark) for mark in request.since]
    await cluster.refresh()
    routing = cluster.routing
    if not (wanted & routing.served).any():
        owner = int(routing.owners[wanted.argmax()])
        raise PartitionUnavailable(f"partition {owner}: no replica that answers serves it; repeat in a moment")
    partition = int(routing.owners[(wanted & routing.served).argmax()])
    slots = wanted & routing.slots_of(partition)
    since = [mark for mark in marks if mark.partition == partition]
    inner = wire.dump_request_to_wire(collection, slots, since)
    tried: list[ShardLink] = []
    failure: LookalikeError = PartitionUnavailable(f"partition {partition} has no replicas")
    while (link := _choose(cluster.group(partition), since, tried)) is not None:
        tried.append(link)
        has_begun = False
        try:
            async for part in link.dump(inner):
                has_begun = True
                yield part
            return
        except LookalikeError as error:
            if not isinstance(error, NotFound | InvalidRequest):
                link.failed(error)
            if has_begun:
                raise PartitionUnavailable(f"{error.message}; what came of this part counts no more") from error
            if not another_may_do_better(error):
                raise
            failure = error
    raise failure


def _choose(group: ReplicaGroup, since: Sequence[Mark], tried: Sequence[ShardLink]) -> ShardLink | None:
    """The replica that an earlier dump is of, if it does well: it can tell what came since. Else the best of those
    that were not tried."""
    known = {mark.replica for mark in since}
    for link in group.links:
        if link.replica in known and link.reluctance < _RELUCTANT and link not in tried:
            return link
    return group.choose(tried)
