"""Owns the search for near-duplicates: the connected components of the records, two of which are connected when
their codes differ in at most so many bits. So two records of a group may differ in more: others lie between them.

Exact as of when the collection was read: every code is searched for in the cluster, by range. Equal codes are
joined here and searched for once. An answer that is full may be cut, and is asked for again with more room, or the
code is compared here with all, where that is less work or no answer has room enough. What is written while the job
runs may be missing; what it finds is checked against the codes that were read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.jobs.partitions import read_part, take_parts
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_BATCH_HITS, MAX_BATCH_QUERIES, MAX_K, Collection

_FIRST_K = 100
# Of keys in one answer: well below what a message holds.
_ANSWER_BYTES = 8 * 1024 * 1024
_COMPARED_BYTES = 64 * 1024 * 1024
# Codes that are compared here in the time that a hit takes to find, send and read.
_CODES_A_HIT = 100

Codes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.int64]
Report = Callable[[int], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A collection's records as they were read. codes: uint8 (n, bits/8), by the keys' places."""

    keys: Sequence[str]
    codes: Codes


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """Near-duplicates by key. distances: in bits, of each from the first."""

    keys: tuple[str, ...]
    distances: tuple[int, ...]


def read_snapshot(
    client: Client, collection: Collection, patience_seconds: float, report: Report = lambda records: None
) -> Snapshot:
    """All records of the collection: keys and codes alone stay in memory."""
    keys: list[str] = []
    codes = bytearray()

    def take(missing: SlotSet) -> SlotSet:
        head, portions = read_part(client, collection, missing)
        part_keys: list[str] = []
        part_codes = bytearray()
        for portion in portions:
            part_keys += [record.key for record in portion]
            part_codes += b"".join(record.code or b"" for record in portion)
            report(len(keys) + len(part_keys))
        keys.extend(part_keys)
        codes.extend(part_codes)
        return head.mark.slots

    take_parts(take, patience_seconds)
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
    """The groups of two and more, largest first, then by their first key. report: told the codes done so far."""
    if not snapshot.keys:
        return []
    distinct, place_of = np.unique(snapshot.codes, axis=0, return_inverse=True)
    place_of = place_of.ravel()
    of_key = dict(zip(snapshot.keys, place_of.tolist(), strict=True))
    roots = Roots(len(distinct))
    search = _Search(client, collection, distinct, of_key, max_distance, roots)
    search.all(report, first_k)
    return _groups(snapshot, roots.all()[place_of])


class Roots:
    """Which numbers are connected, as trees of parents (union-find). A parent is never higher."""

    def __init__(self, count: int) -> None:
        self._parents = np.arange(count)

    def join(self, number: int, others: Numbers) -> None:
        """Connect a number with others. The lowest root stands for all."""
        near = np.append(others, number)
        roots = self._of(np.unique(self._parents[near]))
        self._parents[roots] = self._parents[near] = roots.min()

    def all(self) -> Numbers:
        """Of each number its root."""
        return self._of(self._parents)

    def _of(self, numbers: Numbers) -> Numbers:
        while not np.array_equal(parents := self._parents[numbers], numbers):
            numbers = parents
        return numbers


class _Search:
    """Range searches for all distinct codes."""

    def __init__(
        self,
        client: Client,
        collection: str,
        codes: Codes,
        of_key: dict[str, int],
        max_distance: int,
        roots: Roots,
    ) -> None:
        self._client = client
        self._collection = collection
        self._codes = codes
        self._words = _as_words(codes)
        self._of_key = of_key
        self._max_distance = max_distance
        self._roots = roots
        self._largest_key = max(len(key.encode()) for key in of_key)
        self._done = 0

    def all(self, report: Report, first_k: int) -> None:
        """Join whatever is near, however much that is."""
        waiting = list(range(len(self._codes)))
        k = first_k
        while waiting:
            cut: list[int] = []
            size = self._batch_size(k)
            for start in range(0, len(waiting), size):
                cut += self._batch(waiting[start : start + size], k)
                report(self._done)
            waiting = cut
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
        """Search for some codes; returns those whose answer is full, so maybe cut."""
        results = self._client.search_batch(
            collection=self._collection, codes=[self._codes[number].tobytes() for number in numbers], k=k,
            max_distance=self._max_distance, include_attributes=False,
        )  # fmt: skip
        cut = []
        for number, result in zip(numbers, results, strict=True):
            # A record that was written since has another code than was read, or none.
            found = {self._of_key.get(hit.key) for hit in result.hits}
            self._join(number, [other for other in found if other is not None and other != number])
            if len(result.hits) == k:
                cut.append(number)
            else:
                self._done += 1
        return cut

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
    """Codes as uint64 (n, words), for they are compared eight bytes at once; what is added is equal in all."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)


def _distances(words: npt.NDArray[np.uint64], one: npt.NDArray[np.uint64]) -> Numbers:
    """In bits, of each from one."""
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
    """Raise InvalidRequest unless codes of so many bits can differ in `max_distance`, and some in more."""
    if not 0 <= max_distance < bits:
        raise InvalidRequest(f"max-distance: is {max_distance}; use 0..{bits - 1} bits, as codes have {bits}")
