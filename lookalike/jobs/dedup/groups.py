"""Owns the search for near-duplicates: connected components of records, where two records are connected if their
codes differ in at most `max_distance` bits. Two records of a group may differ in more bits if other records
connect them.

`groups_of_pairs` makes groups of pairs that were found otherwise.

The groups are exact for the moment when the collection was read. This job compares the codes itself (`join`). If
that takes too many comparisons, because the distance is large or many codes are alike, the cluster runs a range
search for every distinct code. A result with k hits may be truncated: its search is repeated with a larger k or,
if that costs more or k is at its limit, this job compares the code with all others. Records written while the job
runs may be missing; hits are checked against the codes that were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from more_itertools import chunked

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.jobs.dedup import join
from lookalike.jobs.dedup.facts import FileFacts, FileFactsBuilder
from lookalike.jobs.dedup.join import Codes, Report
from lookalike.jobs.dedup.roots import Numbers, Roots
from lookalike.jobs.partitions import read_all_slots, read_part
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_BATCH_HITS, MAX_BATCH_QUERIES, MAX_K, Collection

_FIRST_K = 100
# The most bytes that the keys in one response may have; well below the limit on the size of a message.
_ANSWER_BYTES = 8 * 1024 * 1024
# How many codes this process compares in the time that the cluster takes to find and send one hit.
_CODES_A_HIT = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection's records as they were read. `codes` is uint8 (n, bits/8), in the order of `keys`, as are the
    facts of their files."""

    keys: Sequence[str]
    codes: Codes
    facts: FileFacts


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Near-duplicates. `distances[i]` is the distance of `keys[i]` from the first key, in bits, and `rows[i]` its
    place in the snapshot."""

    keys: tuple[str, ...]
    distances: tuple[int, ...]
    rows: tuple[int, ...]


def read_snapshot(
    client: Client, collection: Collection, retry_seconds: float, report: Report = lambda records: None
) -> Snapshot:
    """Reads the keys, the codes and the facts of the files of all records into memory.

    Args:
        client: A client of the cluster.
        collection: The collection.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of records read so far.
    """
    keys: list[str] = []
    codes = bytearray()
    facts = FileFactsBuilder()

    def read(missing: SlotSet) -> SlotSet:
        head, batches = read_part(client, collection, missing)
        part_keys: list[str] = []
        part_codes = bytearray()
        part_facts = FileFactsBuilder()
        for records in batches:
            part_keys += [record.key for record in records]
            part_codes += b"".join(record.code or b"" for record in records)
            for record in records:
                part_facts.add(record.version, record.attributes)
            report(len(keys) + len(part_keys))
        keys.extend(part_keys)
        codes.extend(part_codes)
        facts.extend(part_facts)
        return head.mark.slots

    read_all_slots(read, retry_seconds)
    table = np.frombuffer(codes, np.uint8).reshape(len(keys), collection.code_space.code_bytes)
    return Snapshot(keys, table, facts.build())


def find_groups(
    client: Client,
    collection: str,
    snapshot: Snapshot,
    max_distance: int,
    report: Report = lambda codes: None,
    first_k: int = _FIRST_K,
) -> list[Group]:
    """Finds groups of at least two near-duplicates.

    Args:
        client: A client of the cluster.
        collection: The collection's name.
        snapshot: The collection's records.
        max_distance: The largest distance of two connected records, in bits.
        report: Called with the number of distinct codes done so far.
        first_k: Hits per code in the first round of searches.

    Returns:
        The groups, largest first; groups of equal size by their first key. The keys of a group are sorted.
    """
    if not snapshot.keys:
        return []
    codes, numbers = join.number_codes(snapshot.codes)
    roots = Roots(len(codes))
    if not join.join_near(codes, max_distance, roots, join.CANDIDATES_PER_CODE, report):
        number_of = dict(zip(snapshot.keys, numbers.tolist(), strict=True))
        _Search(client, collection, codes, number_of, max_distance, roots).all(report, first_k)
    return _groups(snapshot, roots.all()[numbers])


def groups_of_pairs(snapshot: Snapshot, left: Numbers, right: Numbers) -> list[Group]:
    """The groups of records that these pairs connect, in the order of `find_groups`. left, right: rows of the
    snapshot, int64 (pairs,)."""
    if not snapshot.keys:
        return []
    roots = Roots(len(snapshot.keys))
    roots.join(left, right)
    return _groups(snapshot, roots.all())


class _Search:
    """The range searches for all distinct codes."""

    def __init__(
        self,
        client: Client,
        collection: str,
        codes: Codes,
        number_of: dict[str, int],
        max_distance: int,
        roots: Roots,
    ) -> None:
        self._client = client
        self._collection = collection
        self._codes = codes
        self._words = join.as_words(codes)
        self._number_of = number_of
        self._max_distance = max_distance
        self._roots = roots
        self._largest_key = max(len(key.encode()) for key in number_of)
        self._done = 0

    def all(self, report: Report, first_k: int) -> None:
        """Joins all codes that are within `max_distance` of each other."""
        waiting = list(range(len(self._codes)))
        k = first_k
        while waiting:
            truncated: list[int] = []
            for numbers in chunked(waiting, self._batch_size(k)):
                truncated += self._batch(numbers, k)
                report(self._done)
            waiting = truncated
            before, k = k, min(MAX_K, 10 * k)
            if before == MAX_K or len(self._codes) <= _CODES_A_HIT * k:
                break
        for number in waiting:
            self._compare_with_all(number)
            report(self._done)

    def _batch_size(self, k: int) -> int:
        room = min(MAX_BATCH_HITS, _ANSWER_BYTES // (self._largest_key + 16))
        return max(1, min(MAX_BATCH_QUERIES, room // k))

    def _batch(self, numbers: Sequence[int], k: int) -> list[int]:
        """Searches for the codes with these numbers. Returns the numbers of the codes that had k hits: their
        results may be truncated."""
        results = self._client.search_batch(
            collection=self._collection, codes=[self._codes[number].tobytes() for number in numbers], k=k,
            max_distance=self._max_distance, include_attributes=False,
        )  # fmt: skip
        truncated = []
        left: list[int] = []
        right: list[int] = []
        for number, result in zip(numbers, results, strict=True):
            # The snapshot has no code, or an older code, for a record that was written after it.
            found = {self._number_of.get(hit.key) for hit in result.hits} - {None, number}
            right += [other for other in found if other is not None]
            left += [number] * len(found)
            if len(result.hits) == k:
                truncated.append(number)
            else:
                self._done += 1
        self._join(np.array(left, np.int64), np.array(right, np.int64))
        return truncated

    def _join(self, left: Numbers, right: Numbers) -> None:
        near = join.distances(self._words, left, right) <= self._max_distance
        self._roots.join(left[near], right[near])

    def _compare_with_all(self, number: int) -> None:
        others = np.arange(len(self._words))
        self._join(np.full_like(others, number), others)
        self._done += 1


def _groups(snapshot: Snapshot, roots: Numbers) -> list[Group]:
    """The groups of records with the same root, int64 (records,)."""
    rows = np.flatnonzero(np.bincount(roots)[roots] > 1)
    rows = np.array(sorted(rows.tolist(), key=snapshot.keys.__getitem__), np.int64)
    rows = rows[np.argsort(roots[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(roots[rows], prepend=-1))
    sizes = np.diff(starts, append=len(rows))
    words = join.as_words(snapshot.codes)
    distances = join.distances(words, rows, np.repeat(rows[starts], sizes)).tolist()
    places = rows.tolist()
    keys = [snapshot.keys[row] for row in places]
    groups = [
        Group(*(tuple(column[start : start + size]) for column in (keys, distances, places)))
        for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)
    ]
    return sorted(groups, key=lambda group: (-len(group.keys), group.keys[0]))


def check_max_distance(max_distance: int, bits: int) -> None:
    """Raises InvalidRequest unless `max_distance` is in 0..bits-1."""
    if not 0 <= max_distance < bits:
        raise InvalidRequest(f"max-distance: is {max_distance}; use 0..{bits - 1} bits, as codes have {bits}")
