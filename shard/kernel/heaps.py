"""Owns the best rows so far: per query a heap by (distance, id), the total order of every answer."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from shard.kernel.jit import compiled

Distances = npt.NDArray[np.uint16]
Ids = npt.NDArray[np.uint64]
Places = npt.NDArray[np.uint32]


@dataclasses.dataclass(slots=True)
class Heaps:
    """Per query a max-heap of up to k rows: the root comes last of them. A row is given by its place."""

    counts: npt.NDArray[np.int64]  # (q,)
    distances: Distances  # (q, k)
    ids: Ids  # (q, k)
    places: Places  # (q, k)

    @classmethod
    def empty(cls, queries: int, k: int) -> Heaps:
        return cls(
            np.zeros(queries, np.int64),
            np.zeros((queries, k), np.uint16),
            np.zeros((queries, k), np.uint64),
            np.zeros((queries, k), np.uint32),
        )

    @property
    def arrays(self) -> tuple[npt.NDArray[np.int64], Distances, Ids, Places]:
        return self.counts, self.distances, self.ids, self.places

    def absorb(self, other: Heaps) -> None:
        """Take over what is better in other heaps of the same queries."""
        _absorb(*self.arrays, *other.arrays)

    def put(self, queries: list[int], other: Heaps) -> None:
        """Set the heaps of these queries to others, in their order."""
        self.counts[queries], self.distances[queries] = other.counts, other.distances
        self.ids[queries], self.places[queries] = other.ids, other.places

    def sort(self) -> None:
        """Put each query's rows in order. They are no heaps afterwards."""
        _sort(*self.arrays)


@compiled
def offer(counts, distances, ids, places, q, distance, identifier, place):  # type: ignore[no-untyped-def]
    """Put a row into a query's heap if there is room or it comes before the last one there."""
    size = counts[q]
    if size < distances.shape[1]:
        child = size
        counts[q] = size + 1
        while child > 0:
            parent = (child - 1) // 2
            if not _before(distances[q, parent], ids[q, parent], distance, identifier):
                break
            distances[q, child], ids[q, child], places[q, child] = (
                distances[q, parent], ids[q, parent], places[q, parent],
            )  # fmt: skip
            child = parent
        distances[q, child], ids[q, child], places[q, child] = distance, identifier, place
    elif _before(distance, identifier, distances[q, 0], ids[q, 0]):
        _sift_down(distances[q], ids[q], places[q], size, distance, identifier, place)


@compiled
def _before(distance_a, id_a, distance_b, id_b):  # type: ignore[no-untyped-def]
    return distance_a < distance_b or (distance_a == distance_b and id_a < id_b)


@compiled
def _sift_down(distances, ids, places, size, distance, identifier, place):  # type: ignore[no-untyped-def]
    """Replace a heap's root and restore its order."""
    parent = 0
    while True:
        child = 2 * parent + 1
        if child >= size:
            break
        right = child + 1
        if right < size and _before(distances[child], ids[child], distances[right], ids[right]):
            child = right
        if not _before(distance, identifier, distances[child], ids[child]):
            break
        distances[parent], ids[parent], places[parent] = distances[child], ids[child], places[child]
        parent = child
    distances[parent], ids[parent], places[parent] = distance, identifier, place


@compiled
def _absorb(  # type: ignore[no-untyped-def]
    counts, distances, ids, places, other_counts, other_distances, other_ids, other_places
):
    for q in range(counts.shape[0]):
        for j in range(other_counts[q]):
            offer(
                counts, distances, ids, places,
                q, other_distances[q, j], other_ids[q, j], other_places[q, j],
            )  # fmt: skip


@compiled
def _sort(counts, distances, ids, places):  # type: ignore[no-untyped-def]
    """Heapsort in place."""
    for q in range(counts.shape[0]):
        for size in range(counts[q] - 1, 0, -1):
            distance, identifier, place = distances[q, size], ids[q, size], places[q, size]
            distances[q, size], ids[q, size], places[q, size] = distances[q, 0], ids[q, 0], places[q, 0]
            _sift_down(distances[q], ids[q], places[q], size, distance, identifier, place)
