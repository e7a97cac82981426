"""Owns the conversion of results, coverage, records, outcomes and status to protobuf messages and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from lookalike.model import errors
from lookalike.model.errors import LookalikeError
from lookalike.model.records import Coverage, Outcome, StoredRecord, Timings, VersionedRecord
from lookalike.model.results import Hit, HitGroup, SearchResult
from lookalike.model.status import (
    DEFAULT_ENCODER,
    ClusterStatus,
    CoordinatorStatus,
    EncoderStatus,
    PartitionStatus,
    Rebalance,
    ReplicaStatus,
)
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.collections import (
    collection_from_wire,
    collection_to_wire,
    space_from_wire,
    space_to_wire,
)
from lookalike.wire.public.filters import value_from_wire


def result_from_wire(
    found: search_pb2.SearchResponse | search_pb2.Hits,
    answer: search_pb2.SearchResponse | search_pb2.SearchBatchResponse,
) -> SearchResult:
    """Decodes the result of one query.

    Args:
        found: The query's hits.
        answer: The response that they came in.
    """
    timings = answer.timings
    own = found if isinstance(found, search_pb2.SearchResponse) else search_pb2.SearchResponse()
    return SearchResult(
        _hits_from_wire(found.hits),
        coverage_from_wire(answer.coverage),
        answer.exact,
        Timings(timings.encode_ms, timings.search_ms, timings.merge_ms, timings.total_ms),
        list(answer.warnings),
        found.more,
        own.cursor,
        [HitGroup(value_from_wire("groups", group.value), _hits_from_wire(group.hits)) for group in own.groups],
    )


def _hits_from_wire(hits: Iterable[record_pb2.Hit]) -> list[Hit]:
    return [
        Hit(hit.key, hit.distance, hit.score, json.loads(hit.attributes or "{}"), hit.thumbnail) for hit in hits
    ]


def coverage_to_wire(coverage: Coverage) -> record_pb2.Coverage:
    return record_pb2.Coverage(
        partitions=coverage.partitions,
        answered=coverage.answered,
        rows_searched=coverage.rows_searched,
        rows_known=coverage.rows_known,
        missing=[
            record_pb2.MissingPartition(partition=partition, reason=reason)
            for partition, reason in sorted(coverage.missing.items())
        ],
        stale_ms=coverage.stale_ms,
    )


def coverage_from_wire(message: record_pb2.Coverage) -> Coverage:
    return Coverage(
        message.partitions,
        message.answered,
        message.rows_searched,
        message.rows_known,
        {part.partition: part.reason for part in message.missing},
        message.stale_ms,
    )


def stored_record_from_wire(message: record_pb2.Record) -> StoredRecord:
    attributes = json.loads(message.attributes or "{}")
    return StoredRecord(message.key, message.code, attributes, message.version, message.thumbnail)


def outcome_to_wire(outcome: Outcome) -> record_pb2.Outcome:
    if outcome.error is None:
        return record_pb2.Outcome(key=outcome.key)
    known = outcome.error if isinstance(outcome.error, LookalikeError) else errors.Internal("internal error")
    return record_pb2.Outcome(key=outcome.key, error=errors.name_of(known), message=known.message)


def outcome_from_wire(message: record_pb2.Outcome) -> Outcome:
    return Outcome(message.key, errors.by_name(message.error, message.message) if message.error else None)


def status_to_wire(status: ClusterStatus) -> search_pb2.ClusterStatusResponse:
    return search_pb2.ClusterStatusResponse(
        cluster=status.cluster,
        version=status.version,
        partitions=[
            search_pb2.PartitionStatus(
                partition=partition.partition,
                slots=partition.slots,
                target_slots=partition.target_slots,
                removable=partition.removable,
                replicas=[
                    search_pb2.ReplicaStatus(
                        replica=replica.replica,
                        address=replica.address,
                        state=replica.state,
                        reason=replica.reason,
                        rows=replica.rows,
                        memory_bytes=replica.memory_bytes,
                        uptime_seconds=replica.uptime_seconds,
                        lag_ms=replica.lag_ms,
                        damaged=replica.damaged,
                    )
                    for replica in partition.replicas
                ],
            )
            for partition in status.partitions
        ],
        encoder=_encoder_to_wire(status.encoder),
        encoders=map(_encoder_to_wire, status.encoders),
        collections=[collection_to_wire(collection) for collection in status.collections],
        rebalance=search_pb2.Rebalance(
            epoch=status.rebalance.epoch,
            partitions=status.rebalance.partitions,
            drained=status.rebalance.drained,
            slots_to_move=status.rebalance.slots_to_move,
            slots_moving=status.rebalance.slots_moving,
            slots_unserved=status.rebalance.slots_unserved,
        ),
        coordinator=None if status.coordinator is None else _coordinator_to_wire(status.coordinator),
    )


def _encoder_to_wire(status: EncoderStatus) -> search_pb2.EncoderStatus:
    return search_pb2.EncoderStatus(
        address=status.address,
        state=status.state,
        reason=status.reason,
        code_space=None if status.code_space is None else space_to_wire(status.code_space),
        name=status.name,
    )


def _encoder_from_wire(message: search_pb2.EncoderStatus) -> EncoderStatus:
    space = space_from_wire(message.code_space) if message.HasField("code_space") else None
    return EncoderStatus(message.address, message.state, message.reason, space, message.name or DEFAULT_ENCODER)


def _coordinator_to_wire(status: CoordinatorStatus) -> search_pb2.CoordinatorStatus:
    return search_pb2.CoordinatorStatus(
        name=status.name,
        uptime_seconds=status.uptime_seconds,
        queries=status.queries,
        bounds_ms=status.bounds_ms,
        searches=status.searches,
    )


def status_from_wire(message: search_pb2.ClusterStatusResponse) -> ClusterStatus:
    return ClusterStatus(
        message.cluster,
        message.version,
        [
            PartitionStatus(
                partition.partition,
                partition.slots,
                [
                    ReplicaStatus(
                        replica.replica,
                        replica.address,
                        replica.state,
                        replica.reason,
                        replica.rows,
                        replica.memory_bytes,
                        replica.uptime_seconds,
                        replica.lag_ms,
                        list(replica.damaged),
                    )
                    for replica in partition.replicas
                ],
                partition.target_slots,
                partition.removable,
            )
            for partition in message.partitions
        ],
        _encoder_from_wire(message.encoder),
        [collection_from_wire(collection) for collection in message.collections],
        Rebalance(
            message.rebalance.epoch,
            message.rebalance.partitions,
            list(message.rebalance.drained),
            message.rebalance.slots_to_move,
            message.rebalance.slots_moving,
            message.rebalance.slots_unserved,
        ),
        _coordinator_from_wire(message.coordinator) if message.HasField("coordinator") else None,
        [_encoder_from_wire(encoder) for encoder in message.encoders],
    )


def _coordinator_from_wire(message: search_pb2.CoordinatorStatus) -> CoordinatorStatus:
    return CoordinatorStatus(
        message.name, message.uptime_seconds, message.queries, list(message.bounds_ms), list(message.searches)
    )


def stored_record_to_wire(record: VersionedRecord) -> record_pb2.Record:
    return record_pb2.Record(
        key=record.key,
        code=record.code or b"",
        attributes=record.attributes,
        version=record.version,
        thumbnail=record.thumbnail,
    )


def outcomes_to_wire(outcomes: Sequence[Outcome]) -> search_pb2.IngestResponse:
    return search_pb2.IngestResponse(outcomes=[outcome_to_wire(outcome) for outcome in outcomes])
