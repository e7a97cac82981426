"""Owns how requests that came together are answered together: scans that differ only in their codes by one scan,
writes to one collection by one commit. And the rule of slots: what a shard does not serve it does not answer for,
what it does not take it does not store."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from lookalike.cluster.scan import ScanGroup, ScanHits, WriteResult
from lookalike.cluster.slots import SlotSet, slots_from_bytes
from lookalike.model.errors import DeadlineExceeded, LookalikeError, SlotMoved
from lookalike.model.records import VersionedRecord, record_id, slot_of
from shard.engine import Engine
from shard.kernel import ScanStopped
from shard.node import Node

_RECORD_BYTES = 256


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """slots: a bit per slot to search; empty for all that are served."""

    engine: Engine
    group: ScanGroup
    slots: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """is_repair: the records come from another shard, which has them already."""

    engine: Engine
    records: Sequence[VersionedRecord]
    is_repair: bool = False

    @property
    def weight(self) -> int:
        """About how many bytes it takes on its way to the disk."""
        return sum(_RECORD_BYTES + record.size for record in self.records)


def scan_together(
    node: Node, scans: Sequence[Scan], should_stop: Callable[[], bool]
) -> list[ScanHits | Exception]:
    """Answer scans that differ only in their codes by one scan of all their codes."""
    results: list[ScanHits | Exception] = [DeadlineExceeded("the scan was stopped")] * len(scans)
    alike: dict[object, list[int]] = {}
    for index, scan in enumerate(scans):
        alike.setdefault((id(scan.engine), scan.group.options, scan.slots), []).append(index)
    for members in alike.values():
        try:
            joined = _scan_joined(node, [scans[i] for i in members], should_stop)
            for index, hits in zip(members, joined, strict=True):
                results[index] = hits
        except ScanStopped:
            break
        except Exception as error:
            if len(members) == 1:
                results[members[0]] = error
                continue
            # What is wrong with one of them, or only with all at once, must not fail the others.
            for index in members:
                results[index] = scan_together(node, [scans[index]], should_stop)[0]
    return results


def require_served(node: Node, slots: SlotSet) -> object:
    """Raise SlotMoved unless reads of all these slots are answered here. What it returns stays the same as long as
    that holds without a break."""
    table = node.table
    if not table.serving[slots].all():
        partition = node.identity.partition
        raise SlotMoved(f"partition {partition} does not serve {int((slots & ~table.serving).sum())} of the slots")
    return table.generations[slots].tobytes()


def write_together(node: Node, writes: Sequence[Write]) -> list[WriteResult | Exception]:
    """Apply the writes to one collection in one commit. Slots change in the same thread, so what is true of them
    before a commit is true after it."""
    results: list[WriteResult | Exception] = [DeadlineExceeded("the write was not tried")] * len(writes)
    by_engine: dict[int, list[int]] = {}
    for index, write in enumerate(writes):
        by_engine.setdefault(id(write.engine), []).append(index)
    for members in by_engine.values():
        admitted = [_admit(node, writes[index]) for index in members]
        try:
            joined = writes[members[0]].engine.write([record for part in admitted for record in part.records])
        except Exception as error:
            is_shared = isinstance(error, LookalikeError) or len(members) == 1
            for index in members:
                # What is wrong with one of them must not fail the others.
                results[index] = error if is_shared else write_together(node, [writes[index]])[0]
            continue
        start = 0
        for index, part in zip(members, admitted, strict=True):
            results[index] = part.result(joined, start)
            start += len(part.records)
    return results


@dataclasses.dataclass(frozen=True, slots=True)
class _Admitted:
    """Of a write of `count` records those that are stored, and where they stood in it."""

    count: int
    records: list[VersionedRecord]
    places: list[int]
    refused: frozenset[int]
    late: dict[int, int]
    elsewhere: dict[int, int]

    def result(self, joined: WriteResult, start: int) -> WriteResult:
        """This write's part of the result of a commit in which its records begin at `start`."""
        existed = [False] * self.count
        superseded = dict(self.late)
        for offset, place in enumerate(self.places):
            existed[place] = joined.existed[start + offset]
            if (by := joined.superseded.get(start + offset)) is not None:
                superseded[place] = by
        return WriteResult(existed, superseded, joined.newest_version, self.elsewhere, self.refused)


def _admit(node: Node, write: Write) -> _Admitted:
    """Refuse records of slots that are not taken here, and those too old to be judged."""
    if write.is_repair:
        records = list(write.records)
        return _Admitted(len(records), records, list(range(len(records))), frozenset(), {}, {})
    table, horizon = node.table, write.engine.horizon
    writable, states_elsewhere = table.writable, table.shared | ~table.writable
    refused, late, elsewhere = set(), {}, {}
    records, places = [], []
    for place, record in enumerate(write.records):
        slot = slot_of(record_id(record.key))
        if states_elsewhere[slot] and table.partners[slot] != table.own:
            elsewhere[slot] = int(table.partners[slot])
        if not writable[slot]:
            refused.add(place)
        elif record.version < horizon:
            late[place] = horizon
        else:
            records.append(record)
            places.append(place)
    return _Admitted(len(write.records), records, places, frozenset(refused), late, elsewhere)


def _scan_joined(node: Node, scans: Sequence[Scan], should_stop: Callable[[], bool]) -> list[ScanHits]:
    first = scans[0]
    slots = slots_from_bytes(first.slots) if first.slots else node.table.serving
    joined = first.group.joined([scan.group for scan in scans[1:]])
    held = require_served(node, slots)
    hits = first.engine.scan(joined, should_stop, slots)
    if require_served(node, slots) != held:
        raise SlotMoved("slots went and came back while they were searched")
    return _cut(hits, [len(scan.group.codes) for scan in scans])


def _cut(hits: ScanHits, sizes: Sequence[int]) -> list[ScanHits]:
    """Give each of the joined scans the hits of its own queries."""
    if len(sizes) == 1:
        return [hits]
    parts = []
    query = row = 0
    for size in sizes:
        counts = hits.counts[query : query + size]
        rows = slice(row, row + sum(counts))
        parts.append(
            dataclasses.replace(
                hits,
                counts=counts,
                distances=hits.distances[rows],
                ids=hits.ids[rows],
                keys=hits.keys[rows],
                attributes=hits.attributes[rows],
                ranks=hits.ranks[rows],
                versions=hits.versions[rows],
            )
        )
        query += size
        row = rows.stop
    return parts
