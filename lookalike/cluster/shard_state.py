"""Owns the state that a shard reports to coordinators and to other shards."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.directory import Directory
from lookalike.cluster.placement import Target
from lookalike.cluster.slots import SlotTable
from lookalike.model.errors import PartitionUnavailable
from lookalike.model.records import Collection


class Readiness(enum.IntEnum):
    """Whether a shard answers reads, and if not, what it is doing. The values are those of the protobuf enum."""

    LOADING = 1
    CATCHING_UP = 2
    FILLING = 3
    READY = 4


@dataclasses.dataclass(frozen=True, slots=True)
class CollectionDigest:
    """What one replica holds of one collection.

    Attributes:
        incarnation: The collection's incarnation (`Collection.incarnation`).
        digests: uint64 (SLOTS,), for each slot the digest of all its rows, tombstones included.
        rows: int64 (SLOTS,), for each slot the number of these rows.
        horizon: The replica has discarded all tombstones below this version.
        has_hash: Whether the collection has a hash file.
    """

    incarnation: int
    digests: npt.NDArray[np.uint64]
    rows: npt.NDArray[np.int64]
    horizon: int
    has_hash: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ShardState:
    """The fields of ShardStatusResponse (protos/lookalike/v1/shard.proto).

    Attributes:
        reason: Why reads are refused, for logs and status pages; decisions use `readiness`.
        digests: Each collection's digest, by the collection's name; empty unless requested.
    """

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
    readiness: Readiness
    reason: str
    stale_ms: int
    newest_version: int
    dropped: Mapping[str, int]
    damaged: Mapping[str, str]
    rows_left_over: int
    digests: Mapping[str, CollectionDigest]
    directory: Directory = dataclasses.field(default_factory=Directory)

    @property
    def is_ready(self) -> bool:
        return self.readiness is Readiness.READY

    @property
    def member(self) -> str:
        """The shard's name, as it appears in `founders`."""
        return f"{self.partition}/{self.replica}/{self.instance}"

    def require(self, partition: int, replica: int) -> None:
        """Checks which shard answered: where addresses are reused, as with containers, an address may belong to
        another shard for a while.

        Raises:
            PartitionUnavailable: If the answer came from another partition or replica.
        """
        if (self.partition, self.replica) != (partition, replica):
            raise PartitionUnavailable(
                f"partition {partition} (replica {replica}): its address belongs to partition {self.partition}"
                f" (replica {self.replica})"
            )
