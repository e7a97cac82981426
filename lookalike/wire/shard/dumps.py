"""Owns the conversion of dumps to and from messages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import SlotSet, slots_to_bytes
from lookalike.model.records import VersionedRecord
from lookalike.v1 import shard_pb2
from lookalike.wire.shard.membership import slots_from_wire
from lookalike.wire.shard.scans import versioned_from_wire


def dump_request_to_wire(collection: str, slots: SlotSet, since: Sequence[Mark]) -> shard_pb2.DumpRequest:
    return shard_pb2.DumpRequest(
        collection=collection, slots=slots_to_bytes(slots), since=[mark_to_wire(mark) for mark in since]
    )


def mark_to_wire(mark: Mark) -> shard_pb2.DumpMark:
    return shard_pb2.DumpMark(
        store=mark.store,
        number=mark.number,
        slots=slots_to_bytes(mark.slots),
        partition=mark.partition,
        replica=mark.replica,
    )


def mark_from_wire(message: shard_pb2.DumpMark) -> Mark:
    """Raises InvalidRequest unless `message.slots` has one bit per slot."""
    return Mark(message.store, message.number, slots_from_wire(message.slots), message.partition, message.replica)


def head_to_wire(head: Head) -> shard_pb2.DumpHead:
    return shard_pb2.DumpHead(
        incarnation=head.incarnation,
        mark=mark_to_wire(head.mark),
        whole=slots_to_bytes(head.whole),
        rows=head.rows,
    )


def dump_part_from_wire(message: shard_pb2.DumpPart) -> Iterator[Head | list[VersionedRecord]]:
    """Yields what the message holds: the head, the records, or both."""
    if message.HasField("head"):
        yield head_from_wire(message.head)
    if message.records:
        yield [versioned_from_wire(record) for record in message.records]


def head_from_wire(message: shard_pb2.DumpHead) -> Head:
    return Head(message.incarnation, mark_from_wire(message.mark), slots_from_wire(message.whole), message.rows)
