"""Owns the conversion of slot tables, targets, hand-over steps and a shard's state to and from messages."""

from __future__ import annotations

import numpy as np

from lookalike.cluster.placement import MAX_PARTITIONS, Target
from lookalike.cluster.shard_state import CollectionDigest, Readiness, ShardState
from lookalike.cluster.slots import HandOver, HandOverStep, SlotSet, SlotTable, slots_from_bytes
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import SLOTS
from lookalike.v1 import shard_pb2
from lookalike.wire.public.collections import collection_from_wire, collection_to_wire
from lookalike.wire.shard.directory import directory_from_wire, directory_to_wire

_PARTNER, _GENERATION, _DIGEST = np.dtype("<u2"), np.dtype("<u4"), np.dtype("<u8")
_ROWS = np.dtype("<u4")


def target_to_wire(target: Target) -> shard_pb2.Target:
    return shard_pb2.Target(
        epoch=target.epoch, partitions=target.partitions, drained=target.drained, formerly=target.formerly
    )


def target_from_wire(message: shard_pb2.Target) -> Target:
    """Raises InvalidRequest if the number of partitions is out of range."""
    if not 1 <= message.partitions <= MAX_PARTITIONS:
        raise InvalidRequest(f"target: {message.partitions} partitions; use 1..{MAX_PARTITIONS:,}")
    return Target(message.epoch, message.partitions, tuple(sorted(message.drained)), message.formerly)


def table_to_wire(table: SlotTable) -> shard_pb2.SlotTable:
    return shard_pb2.SlotTable(
        states=table.states.tobytes(),
        partners=table.partners.astype(_PARTNER).tobytes(),
        generations=generations_to_wire(table.generations),
    )


def table_from_wire(own: int, message: shard_pb2.SlotTable) -> SlotTable:
    return SlotTable(
        own,
        np.frombuffer(message.states, np.uint8),
        np.frombuffer(message.partners, _PARTNER).astype(np.uint16),
        generations_from_wire(message.generations),
    )


def generations_to_wire(generations: np.typing.NDArray[np.integer]) -> bytes:
    return generations.astype(_GENERATION).tobytes()


def generations_from_wire(data: bytes) -> np.typing.NDArray[np.uint32]:
    """Raises InvalidRequest unless there is one generation per slot."""
    if len(data) != SLOTS * _GENERATION.itemsize:
        raise InvalidRequest(f"generations: {len(data)} bytes; send {SLOTS * 4:,}, one uint32 per slot")
    return np.frombuffer(data, _GENERATION).astype(np.uint32)


def slots_from_wire(data: bytes) -> SlotSet:
    """Raises InvalidRequest unless there is one bit per slot."""
    try:
        return slots_from_bytes(data)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def hand_over_from_wire(message: shard_pb2.HandOverRequest) -> HandOver:
    """Raises InvalidRequest if the step is unknown or an array has the wrong length."""
    slots = slots_from_wire(message.slots)
    generations = generations_from_wire(message.generations)
    if message.step == shard_pb2.HandOverRequest.STEP_SHARE:
        step = HandOverStep.SHARE
    elif message.step == shard_pb2.HandOverRequest.STEP_RELEASE:
        step = HandOverStep.RELEASE
    else:
        raise InvalidRequest(f"step: unknown value {message.step}; use a newer shard")
    return HandOver(step, slots, message.partition, generations)


def state_to_wire(state: ShardState) -> shard_pb2.ShardStatusResponse:
    return shard_pb2.ShardStatusResponse(
        cluster=state.cluster,
        partition=state.partition,
        replica=state.replica,
        collections=[collection_to_wire(collection) for collection in state.collections],
        memory_bytes=state.memory_bytes,
        uptime_seconds=state.uptime_seconds,
        instance=state.instance,
        formed=state.is_formed,
        founders=state.founders,
        target=target_to_wire(state.target),
        slots=table_to_wire(state.table),
        ready=state.is_ready,
        readiness=shard_pb2.Readiness.Value(f"READINESS_{state.readiness.name}"),
        reason=state.reason,
        stale_ms=state.stale_ms,
        newest_version=state.newest_version,
        dropped=[
            shard_pb2.DroppedCollection(name=name, incarnation=incarnation)
            for name, incarnation in state.dropped.items()
        ],
        digests=[
            shard_pb2.CollectionDigest(
                name=name,
                incarnation=found.incarnation,
                digests=found.digests.astype(_DIGEST).tobytes(),
                rows=found.rows.astype(_ROWS).tobytes(),
                horizon=found.horizon,
                has_hash=found.has_hash,
            )
            for name, found in state.digests.items()
        ],
        damaged=[shard_pb2.DamagedCollection(name=name, reason=reason) for name, reason in state.damaged.items()],
        rows_left_over=state.rows_left_over,
        directory=directory_to_wire(state.directory),
    )


def state_from_wire(message: shard_pb2.ShardStatusResponse) -> ShardState:
    return ShardState(
        message.cluster,
        message.partition,
        message.replica,
        [collection_from_wire(collection) for collection in message.collections],
        message.memory_bytes,
        message.uptime_seconds,
        message.instance,
        message.formed,
        tuple(message.founders),
        target_from_wire(message.target),
        table_from_wire(message.partition, message.slots),
        _readiness_from_wire(message),
        message.reason,
        message.stale_ms,
        message.newest_version,
        {dropped.name: dropped.incarnation for dropped in message.dropped},
        {damaged.name: damaged.reason for damaged in message.damaged},
        message.rows_left_over,
        {
            found.name: CollectionDigest(
                found.incarnation,
                np.frombuffer(found.digests, _DIGEST),
                np.frombuffer(found.rows, _ROWS).astype(np.int64),
                found.horizon,
                found.has_hash,
            )
            for found in message.digests
        },
        directory_from_wire(message.directory),
    )


def _readiness_from_wire(message: shard_pb2.ShardStatusResponse) -> Readiness:
    """Reads `readiness`. An older shard does not send it: it counts as loading until it is ready, so that no other
    shard compares its records with that shard's."""
    if message.readiness:
        return Readiness(message.readiness)
    return Readiness.READY if message.ready else Readiness.LOADING
