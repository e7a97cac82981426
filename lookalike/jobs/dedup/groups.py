"""Owns the search for near-duplicates: connected components of records, where two records are connected if their
codes differ in at most `max_distance` bits. Two records of a group may differ in more bits if other records
connect them.

The groups are exact for the moment when the collection was read. The cluster runs one range search for every
distinct code: records with equal codes share it. A result with k hits may be truncated. The job then repeats that
search with a larger k; if k is at its limit, or if comparing codes in this process costs less, the job compares
the code with all others itself. Records written while the job runs may be missing from the groups. Distances are
always those between the codes that were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from more_itertools import chunked

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.jobs.partitions import read_all_slots, read_part
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_BATCH_HITS, MAX_BATCH_QUERIES, MAX_K, Collection

_FIRST_K = 100
# The most bytes that the keys in one response may have; well below the limit on the size of a message.
_ANSWER_BYTES = 8 * 1024 * 1024
_COMPARED_BYTES = 64 * 1024 * 1024
# How many codes this process compares in the time that the cluster takes to find and send one hit.
_CODES_A_HIT = 100

Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Report = Callable[[int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection's records as they were read. `codes` is uint8 (n, bits/8), in the order of `keys`."""

    keys: Sequence[str]
    codes: Codes


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Near-duplicates. `distances[i]` is the distance of `keys[i]` from the first key, in bits."""

    keys: tuple[str, ...]
    distances: tuple[int, ...]


def read_snapshot(
    client: Client, collection: Collection, retry_seconds: float, report: Report = lambda records: None
) -> Snapshot:
    """Reads the keys and codes of all records into memory.

    Args:
        client: A client of the cluster.
        collection: The collection.
        retry_seconds: How long to retry while a partition is unavailable.
        report: Called with the number of records read so far.
    """
    keys: list[str] = []
    codes = bytearray()

    def read(missing: SlotSet) -> SlotSet:
        head, batches = read_part(client, collection, missing)
        part_keys: list[str] = []
        part_codes = bytearray()
        for records in batches:
            part_keys += [record.key for record in records]
            part_codes += b"".join(record.code or b"" for record in records)
            report(len(keys) + len(part_keys))
        keys.extend(part_keys)
        codes.extend(part_codes)
        return head.mark.slots

    read_all_slots(read, retry_seconds)
    return Snapshot(
        keys, np.frombuffer(bytes(codes), np.uint8).reshape(len(keys), collection.code_space.code_bytes)
    )


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
    distinct, numbers = np.unique(snapshot.codes, axis=0, return_inverse=True)
    numbers = numbers.ravel()
    number_of = dict(zip(snapshot.keys, numbers.tolist(), strict=True))
    roots = Roots(len(distinct))
    search = _Search(client, collection, distinct, number_of, max_distance, roots)
    search.all(report, first_k)
    return _groups(snapshot, roots.all()[numbers])


class Roots:
    """A union-find forest over 0..count-1. A parent is never larger than its child."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def join(self, number: int, others: Numbers) -> None:
        """Connects a number with others. The smallest root becomes the root of all."""
        near = np.append(others, number)
        roots = self._of(np.unique(self._parents[near]))
        self._parents[roots] = self._parents[near] = roots.min()

    def all(self) -> Numbers:
        """The root of each number."""
        return self._of(self._parents)

    def _of(self, numbers: Numbers) -> Numbers:
        while not np.array_equal(parents := self._parents[numbers], numbers):
            numbers = parents
        return numbers


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
        self._words = _as_words(codes)
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
        for number, result in zip(numbers, results, strict=True):
            # The snapshot has no code, or an older code, for a record that was written after it.
            found = {self._number_of.get(hit.key) for hit in result.hits}
            self._join(number, [other for other in found if other is not None and other != number])
            if len(result.hits) == k:
                truncated.append(number)
            else:
                self._done += 1
        return truncated

    def _join(self, number: int, others: Sequence[int]) -> None:
        if not others:
            return
        near = _distances(self._words[others], self._words[number]) <= self._max_distance
        self._roots.join(number, np.array(others)[near])

    def _compare_with_all(self, number: int) -> None:
        step = max(1, _COMPARED_BYTES // self._codes.shape[1])
        for start in range(0, len(self._words), step):
            distances = _distances(self._words[start : start + step], self._words[number])
            self._roots.join(number, start + np.flatnonzero(distances <= self._max_distance))
        self._done += 1


def _as_words(codes: Codes) -> npt.NDArray[np.uint64]:
    """Codes as uint64 (n, words), padded with zeros, to compare eight bytes at a time."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)


def _distances(words: npt.NDArray[np.uint64], one: npt.NDArray[np.uint64]) -> Numbers:
    """The distance of each row of `words` from `one`, in bits."""
    distances: Numbers = np.bitwise_count(words ^ one).sum(axis=1, dtype=np.int64)
    return distances


def _groups(snapshot: Snapshot, roots: Numbers) -> list[Group]:
    order = np.argsort(roots, kind="stable")
    bounds = np.flatnonzero(np.diff(roots[order])) + 1
    groups = []
    for members in np.split(order, bounds):
        if len(members) > 1:
            rows = sorted(members.tolist(), key=lambda row: snapshot.keys[row])
            codes = snapshot.codes[rows]
            distances = np.bitwise_count(codes ^ codes[0]).sum(axis=1, dtype=np.int64)
            groups.append(Group(tuple(snapshot.keys[row] for row in rows), tuple(distances.tolist())))
    return sorted(groups, key=lambda group: (-len(group.keys), group.keys[0]))


def check_max_distance(max_distance: int, bits: int) -> None:
    """Raises InvalidRequest unless `max_distance` is in 0..bits-1."""
    if not 0 <= max_distance < bits:
        raise InvalidRequest(f"max-distance: is {max_distance}; use 0..{bits - 1} bits, as codes have {bits}")
