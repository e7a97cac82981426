"""Owns the state of a cluster as plain data: partitions, replicas, encoder, coordinator and pending slot moves."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lookalike.model.codespace import CodeSpace
from lookalike.model.records import Collection

# The name of the encoder in the config's section `encoder`. Those in `encoders` have names of their own.
DEFAULT_ENCODER = "default"


def encoder_path(name: str) -> str:
    """The path of an encoder's section in the config."""
    return "encoder" if name == DEFAULT_ENCODER else f"encoders.{name}"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica, as its coordinator sees it.

    Args:
        replica: Its number, from 0.
        address: Its gRPC address.
        state: "serving", "recovering" or "unavailable".
        reason: Why it does not serve.
        rows: Live records.
        memory_bytes: Memory that its process holds, without mapped files.
        uptime_seconds: Seconds since it started.
        lag_ms: It has every write that was acknowledged at least this long ago.
        damaged: Damaged collections that it cannot serve.
    """

    replica: int
    address: str
    state: str
    reason: str
    rows: int
    memory_bytes: int
    uptime_seconds: float
    lag_ms: int = 0
    damaged: Sequence[str] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition. `removable`: it holds no records and no slots are assigned to it."""

    partition: int
    slots: int
    replicas: Sequence[ReplicaStatus]
    target_slots: int = 0
    removable: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Rebalance:
    """How far the cluster is from the distribution of slots that its config asks for.

    Args:
        epoch: Counts the changes of the distribution.
        partitions: The partitions that the config asks for.
        drained: The partitions that were drained.
        slots_to_move: Slots that are not yet at their target.
        slots_moving: Those of them that are moving now.
        slots_unserved: Slots that no reachable replica serves.
    """

    epoch: int
    partitions: int
    drained: Sequence[int]
    slots_to_move: int
    slots_moving: int
    slots_unserved: int


@dataclasses.dataclass(frozen=True, slots=True)
class EncoderStatus:
    """An encoder. `state` is "serving", "unavailable" or "none"; `code_space` is known when serving; `name` is
    "default", or its key in the config's `encoders`."""

    address: str
    state: str
    reason: str
    code_space: CodeSpace | None
    name: str = DEFAULT_ENCODER


@dataclasses.dataclass(frozen=True, slots=True)
class CoordinatorStatus:
    """What one coordinator has answered since it started.

    Args:
        name: The coordinator's host and port, and "#" and the process's number if several share the port.
        uptime_seconds: Seconds since it started.
        queries: Queries answered.
        bounds_ms: Upper bounds of the latency histogram's buckets, in milliseconds.
        searches: Searches per bucket; the last count is for searches above the last bound. A batch is one search.
    """

    name: str
    uptime_seconds: float
    queries: int
    bounds_ms: Sequence[float]
    searches: Sequence[int]


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterStatus:
    """A cluster's state. `coordinator` is the one that answered; None if its version is too old to report it.
    `encoder` is the one in the config's section `encoder`, `encoders` are the others."""

    cluster: str
    version: str
    partitions: Sequence[PartitionStatus]
    encoder: EncoderStatus
    collections: Sequence[Collection]
    rebalance: Rebalance
    coordinator: CoordinatorStatus | None = None
    encoders: Sequence[EncoderStatus] = ()

    @property
    def all_encoders(self) -> list[EncoderStatus]:
        """Those that the config has, the default one first."""
        return [one for one in (self.encoder, *self.encoders) if one.state != "none"]
