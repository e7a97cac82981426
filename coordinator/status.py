"""Owns the cluster's status: what every part says of itself now, and who does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.metadata import version

from coordinator.catalog import sum_up
from coordinator.encoder_link import EncoderLink
from coordinator.placement import Placement
from coordinator.shard_link import ShardLink, ShardState
from lookalike.errors import LookalikeError, Recovering
from lookalike.records import ClusterStatus, EncoderStatus, PartitionStatus, ReplicaStatus

STATUS_TIMEOUT_SECONDS = 2.0


async def cluster_status(
    cluster: str, links: Sequence[ShardLink], placement: Placement, encoder: EncoderLink
) -> ClusterStatus:
    """Ask every part; one that does not answer within two seconds is unavailable."""
    deadline = asyncio.get_running_loop().time() + STATUS_TIMEOUT_SECONDS
    states = await asyncio.gather(*(link.state_or_error(deadline) for link in links))
    return ClusterStatus(
        cluster,
        version("lookalike"),
        [
            PartitionStatus(link.partition, placement.slots(link.partition), [_replica(link, state)])
            for link, state in zip(links, states, strict=True)
        ],
        await _encoder(encoder, deadline),
        sum_up(states),
    )


def _replica(link: ShardLink, state: ShardState | LookalikeError) -> ReplicaStatus:
    if isinstance(state, ShardState):
        rows = sum(collection.rows for collection in state.collections)
        return ReplicaStatus(
            link.replica, link.address, "serving", "", rows, state.memory_bytes, state.uptime_seconds
        )
    word = "recovering" if isinstance(state, Recovering) else "unavailable"
    return ReplicaStatus(link.replica, link.address, word, state.message, 0, 0, 0.0)


async def _encoder(encoder: EncoderLink, deadline: float) -> EncoderStatus:
    if not encoder.address:
        return EncoderStatus("", "none", "", None)
    try:
        return EncoderStatus(encoder.address, "serving", "", (await encoder.describe(deadline)).space)
    except LookalikeError as error:
        return EncoderStatus(encoder.address, "unavailable", error.message, None)
