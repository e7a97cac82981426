"""Owns what a shard says of itself, to coordinators and to other shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotTable
from lookalike.model.errors import PartitionUnavailable
from lookalike.model.records import Collection


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionDigest:
    """digests: uint64 per slot, over all rows, tombstones included; rows: how many those are. horizon: tombstones
    below it are forgotten."""

    incarnation: int
    digests: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    horizon: int
    has_hash: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ShardState:
    """See ShardStatusResponse in protos/lookalike/v1/shard.proto. digests: by collection, empty unless asked
    for."""

    cluster: str
    partition: int
    replica: int
    collections: Sequence[Collection]
    memory_bytes: int
    uptime_seconds: float
    instance: str
    is_formed: bool
    founders: tuple[str, ...]
    target: Target
    table: SlotTable
    is_ready: bool
    reason: str
    stale_ms: int
    newest_version: int
    dropped: Mapping[str, int]
    damaged: Mapping[str, str]
    rows_left_over: int
    digests: Mapping[str, CollectionDigest]

    @property
    def member(self) -> str:
        """As the founders are named."""
        return f"{self.partition}/{self.replica}/{self.instance}"

    def require(self, partition: int, replica: int) -> None:
        """Raise PartitionUnavailable unless it is this shard that answered: where addresses are given anew, as in
        containers, one may belong to another shard for a while."""
        if (self.partition, self.replica) != (partition, replica):
            raise PartitionUnavailable(
                f"partition {partition} (replica {replica}): its address belongs to partition {self.partition}"
                f" (replica {self.replica})"
            )
