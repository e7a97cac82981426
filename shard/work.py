"""Owns the batching of concurrent requests: one scan answers all requests that differ only in their codes, and one
commit stores all writes to a collection. Also rejects reads of slots that the shard does not serve, and writes to
slots that it does not accept."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from lookalike.cluster.columns import VersionedColumns, concat
from lookalike.cluster.scan import ScanGroup, ScanResult, Scoring, WriteResult
from lookalike.cluster.select import Question, Selected
from lookalike.cluster.slots import SlotSet, SlotTable
from lookalike.model.errors import DeadlineExceeded, LookalikeError, SlotMoved
from lookalike.model.records import VersionedRecord, record_id, slot_of
from lookalike.wire import slots_from_wire
from shard.engine import Engine
from shard.kernel import ScanStopped
from shard.node import Node

# One thread reads as many bytes in a millisecond, compares _COMPARED_PER_READ times as many, and looks up the
# keys of as many hits.
_SHORT_BYTES = 16 * 1024 * 1024
_COMPARED_PER_READ = 8
_SHORT_HITS = 64
_RECORD_BYTES = 256
_ROW_BYTES = 64
_STOPPED = "the scan was stopped"


@dataclasses.dataclass(frozen=True, slots=True)
class Scan:
    """A request to scan. slots: a bitmap of the slots to search; empty for all that are served."""

    engine: Engine
    group: ScanGroup
    slots: bytes

    @property
    def is_short(self) -> bool:
        """Whether the scan takes less than about a millisecond."""
        group = self.group
        queries = len(group.codes)
        read = self.engine.rows * group.codes.shape[1] * (1 + queries / _COMPARED_PER_READ)
        return (
            group.filter is None
            and group.scoring is Scoring.HAMMING
            and read <= _SHORT_BYTES
            and queries * group.k <= _SHORT_HITS
        )


@dataclasses.dataclass(frozen=True, slots=True)
class Write:
    """A request to write.

    Attributes:
        engine: The collection.
        records: The records.
        is_repair: The records come from another shard, so their slots are not checked.
        bases: If given, the records' keys are to be reserved; see `Engine.reserve`.
        is_reserved: Only records whose keys are reserved for their versions may be stored.
        is_release: The reservations of the records' keys for their versions end.
    """

    engine: Engine
    records: Sequence[VersionedRecord] | VersionedColumns
    is_repair: bool = False
    bases: Sequence[int] | None = None
    is_reserved: bool = False
    is_release: bool = False

    @property
    def weight(self) -> int:
        """The approximate number of bytes to write."""
        if isinstance(self.records, VersionedColumns):
            return _ROW_BYTES * len(self.records) + self.records.size
        return sum(_RECORD_BYTES + record.size for record in self.records)


def scan_alone(node: Node, scan: Scan, should_stop: Callable[[], bool]) -> ScanResult | Exception:
    """Answers one request as `scan_together` does."""
    try:
        return _scan_joined(node, [scan], should_stop)[0]
    except ScanStopped:
        return DeadlineExceeded(_STOPPED)
    except Exception as error:
        return error


def scan_together(
    node: Node, scans: Sequence[Scan], should_stop: Callable[[], bool]
) -> list[ScanResult | Exception]:
    """Answers requests to scan. One scan answers all requests that differ only in their codes.

    Args:
        node: The shard's collections.
        scans: The requests.
        should_stop: Polled during the scans; True ends them.

    Returns:
        For each request, its result or its error.
    """
    if len(scans) == 1:
        return [scan_alone(node, scans[0], should_stop)]
    results: list[ScanResult | Exception] = [DeadlineExceeded(_STOPPED)] * len(scans)
    for members in _joinable(scans):
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
            # One invalid request, or a limit that only all of them together exceed, must not fail the others.
            for index in members:
                results[index] = scan_alone(node, scans[index], should_stop)
    return results


def _joinable(scans: Sequence[Scan]) -> Iterable[list[int]]:
    """Returns the indices of the requests that one scan answers, for each such scan."""
    groups: dict[object, list[int]] = {}
    for index, scan in enumerate(scans):
        groups.setdefault((id(scan.engine), scan.group.batch_key, scan.slots), []).append(index)
    return groups.values()


def require_served(node: Node, slots: SlotSet) -> object:
    """Raises SlotMoved unless this shard serves all these slots.

    Returns:
        A value to compare with that of a later call. Equal values mean that the shard served the slots throughout.
    """
    return _require_served(node.table, slots)


@functools.lru_cache(maxsize=64)  # searches send the same few bitmaps until slots move, which makes a new table
def served(table: SlotTable, bitmap: bytes) -> tuple[SlotSet, object]:
    """Returns the slots of a bitmap, and what `require_served` returns for them. An empty bitmap stands for all
    slots that the shard serves.

    Raises:
        InvalidRequest: If the bitmap has a wrong length.
        SlotMoved: If the shard does not serve all of the slots.
    """
    slots = slots_from_wire(bitmap) if bitmap else table.serving
    return slots, _require_served(table, slots)


def _require_served(table: SlotTable, slots: SlotSet) -> object:
    if not table.serving[slots].all():
        missing = int((slots & ~table.serving).sum())
        raise SlotMoved(f"partition {table.own} does not serve {missing} of the slots")
    return table.generations[slots].tobytes()


def select(
    node: Node, engine: Engine, question: Question, slots: SlotSet, should_stop: Callable[[], bool]
) -> Selected:
    """Answers a question about records in these slots. Raises SlotMoved unless this shard serves all of them."""
    held = require_served(node, slots)
    answer = engine.select(question, slots, should_stop)
    if require_served(node, slots) != held:
        raise SlotMoved("slots moved away and returned during the read")
    return answer


def write_together(node: Node, writes: Sequence[Write]) -> list[WriteResult | Exception]:
    """Applies writes, with one commit per collection. Must run in the thread that changes slots, so that
    slots do not change during a commit.

    Returns:
        For each write, its result or its error.
    """
    results: list[WriteResult | Exception] = [DeadlineExceeded("the write was not attempted")] * len(writes)
    by_engine: dict[int, list[int]] = {}
    for index, write in enumerate(writes):
        if write.bases is None:
            by_engine.setdefault(id(write.engine), []).append(index)
        else:
            results[index] = _reserve(node, write, write.bases)
    for members in by_engine.values():
        admitted = [_admit(node, writes[index]) for index in members]
        try:
            joined = writes[members[0]].engine.write(_joined([part.records for part in admitted]))
        except Exception as error:
            is_shared = isinstance(error, LookalikeError) or len(members) == 1
            for index in members:
                # One write's error must not fail the others.
                results[index] = error if is_shared else write_together(node, [writes[index]])[0]
            continue
        start = 0
        for index, part in zip(members, admitted, strict=True):
            results[index] = part.result(joined, start)
            start += len(part.records)
    return results


def _reserve(node: Node, write: Write, bases: Sequence[int]) -> WriteResult | Exception:
    """Reserves the keys of a write's records, except those that could not be stored here."""
    try:
        assert not isinstance(write.records, VersionedColumns), "bases come with records only"
        if write.is_release:
            for record in write.records:
                write.engine.reservations.release(record.key, record.version)
            return WriteResult([False] * len(write.records), {}, write.engine.newest_version)
        admitted = _admit(node, write)
        records = admitted.records
        assert not isinstance(records, VersionedColumns), "bases come with records only"
        return admitted.result(write.engine.reserve(records, [bases[place] for place in admitted.places]), 0)
    except Exception as error:
        return error


@dataclasses.dataclass(frozen=True, slots=True)
class _Admitted:
    """The part of a write that may be stored.

    Attributes:
        count: The number of records in the write.
        records: The records that may be stored.
        places: For each of `records`, its index in the write.
        refused: The indices of records whose slots this shard does not accept.
        late: By the index of each record whose version is below the horizon, or below the one that its key is
            reserved for, that version; or the record's own, if its key was to be reserved for it and is not.
        forward_to: By slot, the other partition that must store the slot's records.
    """

    count: int
    records: Sequence[VersionedRecord] | VersionedColumns
    places: Sequence[int]
    refused: frozenset[int]
    late: dict[int, int]
    forward_to: dict[int, int]

    def result(self, joined: WriteResult, start: int) -> WriteResult:
        """Returns this write's result. `joined` is the result of a commit that stored this write's records from
        index `start` on."""
        superseded = dict(self.late)
        superseded |= {
            self.places[place - start]: by
            for place, by in joined.superseded.items()
            if start <= place < start + len(self.places)
        }
        existed = [False] * self.count
        for place, was_there in zip(self.places, joined.existed[start : start + len(self.places)], strict=False):
            existed[place] = was_there
        return WriteResult(existed, superseded, joined.newest_version, self.forward_to, self.refused)


def _admit(node: Node, write: Write) -> _Admitted:
    """Rejects records whose slots this shard does not accept, records with a version below the horizon, because a
    later tombstone of their key may have been discarded, and records whose key is reserved for a higher version.
    Records of a repair are all admitted."""
    if not isinstance(write.records, VersionedColumns):
        return _admit_records(node, write, write.records)
    records, table, slots = write.records, node.table, write.records.slots
    floor = max(write.engine.horizon, write.engine.reservations.floor)
    is_late = (records.versions < np.uint64(floor)).any()
    if is_late or write.engine.reservations or not table.writable[slots].all():
        return _admit_records(node, write, records.records())
    shared = np.unique(slots[table.shared[slots] & (table.partners[slots] != table.own)])
    forward_to = {slot: int(table.partners[slot]) for slot in shared.tolist()}
    return _Admitted(len(records), records, range(len(records)), frozenset(), {}, forward_to)


def _admit_records(node: Node, write: Write, given: Sequence[VersionedRecord]) -> _Admitted:
    if write.is_repair:
        return _Admitted(len(given), given, range(len(given)), frozenset(), {}, {})
    table, horizon, reservations = node.table, write.engine.horizon, write.engine.reservations
    writable, may_forward = table.writable, table.shared | ~table.writable
    unreserved = _unreserved(write.engine, given) if write.is_reserved else frozenset[str]()
    refused, late, forward_to = set(), {}, {}
    records, places = [], []
    for place, record in enumerate(given):
        slot = slot_of(record_id(record.key))
        if may_forward[slot] and table.partners[slot] != table.own:
            forward_to[slot] = int(table.partners[slot])
        if not writable[slot]:
            refused.add(place)
        elif record.version < horizon:
            late[place] = horizon
        elif record.version < (held := reservations.version(record.key)):
            late[place] = held
        elif record.key in unreserved:
            late[place] = record.version
        else:
            records.append(record)
            places.append(place)
    return _Admitted(len(given), records, places, frozenset(refused), late, forward_to)


def _unreserved(engine: Engine, records: Sequence[VersionedRecord]) -> frozenset[str]:
    """The keys that are not reserved for their records' versions, and that have not been stored with them either:
    a message may arrive twice."""
    lacking = {
        record.key: record.version
        for record in records
        if engine.reservations.version(record.key) != record.version
    }
    stored = engine.versions(list(lacking)) if lacking else {}
    return frozenset(key for key, version in lacking.items() if stored.get(key) != version)


def _joined(
    parts: Sequence[Sequence[VersionedRecord] | VersionedColumns],
) -> list[VersionedRecord] | VersionedColumns:
    """The records of several writes."""
    columns = [part for part in parts if isinstance(part, VersionedColumns)]
    if len(columns) == len(parts):
        return concat(columns)
    lists = (part.records() if isinstance(part, VersionedColumns) else part for part in parts)
    return [record for part in lists for record in part]


def _scan_joined(node: Node, scans: Sequence[Scan], should_stop: Callable[[], bool]) -> list[ScanResult]:
    first, table = scans[0], node.table
    slots, held = served(table, first.slots)
    joined = first.group.joined([scan.group for scan in scans[1:]])
    result = first.engine.scan(joined, should_stop, slots)
    if node.table is not table and require_served(node, slots) != held:
        raise SlotMoved("slots moved away and returned during the scan")
    if len(scans) == 1:
        return [result]
    parts = result.hits.split([len(scan.group.codes) for scan in scans])
    return [dataclasses.replace(result, hits=part) for part in parts]
