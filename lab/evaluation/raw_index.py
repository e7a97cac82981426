"""Owns the paper's baseline (see `lab.evaluation.paper`): a linear scan of float features. For evaluation, not for
serving.

`RawIndex` runs in one process. `RawCluster` runs a `RawIndex` per partition, each as a Ray actor, and returns the
same results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import ray

Vectors = npt.NDArray[np.float32]
Ids = npt.NDArray[np.uint64]
Found = tuple[npt.NDArray[np.float32], Ids]


class RawIndex:
    """float32 vectors with ids, searched by Euclidean distance."""

    def __init__(self, width: int) -> None:
        self._vectors = np.zeros((0, width), np.float32)
        self._squares = np.zeros(0, np.float32)
        self._ids = np.zeros(0, np.uint64)

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def index_bytes(self) -> int:
        return int(self._vectors.nbytes)

    def append(self, vectors: Vectors, ids: Ids) -> None:
        """Appends vectors, float32 (n, width), with ids, uint64 (n,)."""
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._vectors = np.concatenate([self._vectors, vectors])
        self._squares = np.concatenate([self._squares, np.einsum("nw,nw->n", vectors, vectors)])
        self._ids = np.concatenate([self._ids, ids])

    def search(self, queries: Vectors, k: int) -> Found:
        """Finds the nearest min(k, n) vectors of each query. Returns distances and ids, both (q, min(k, n)),
        ordered by (distance, id)."""
        squares = self._squares - 2 * (queries @ self._vectors.T)
        squares += np.einsum("qw,qw->q", queries, queries)[:, None]
        return _first(np.sqrt(np.maximum(squares, 0)), np.broadcast_to(self._ids, squares.shape), k)


class RawCluster:
    """A `RawIndex` for each partition, on the running Ray cluster. Vectors are assigned to partitions by id."""

    def __init__(self, width: int, partitions: int) -> None:
        actor = ray.remote(RawIndex)
        self._partitions: Sequence[Any] = [actor.remote(width) for _ in range(partitions)]

    def append(self, vectors: Vectors, ids: Ids) -> None:
        owners = ids % np.uint64(len(self._partitions))
        ray.get(
            [
                partition.append.remote(vectors[owners == number], ids[owners == number])
                for number, partition in enumerate(self._partitions)
            ]
        )

    def search(self, queries: Vectors, k: int) -> Found:
        """See `RawIndex.search`."""
        shared = ray.put(queries)
        parts: list[Found] = ray.get([partition.search.remote(shared, k) for partition in self._partitions])
        distances, ids = (np.concatenate([part[at] for part in parts], axis=1) for at in (0, 1))
        return _first(distances, ids, k)


def _first(distances: npt.NDArray[np.float32], ids: Ids, k: int) -> Found:
    if distances.shape[1] > 4 * k:
        # Keep all rows that are as near as the k-th, so that the sort below can order ties by id.
        bounds = np.partition(distances, k - 1, axis=1)[:, k - 1]
        width = int((distances <= bounds[:, None]).sum(axis=1).max(initial=0))
        near = np.argpartition(distances, width - 1, axis=1)[:, :width]
        distances, ids = np.take_along_axis(distances, near, axis=1), np.take_along_axis(ids, near, axis=1)
    order = np.lexsort((ids, distances), axis=1)[:, :k]
    return np.take_along_axis(distances, order, axis=1), np.take_along_axis(ids, order, axis=1)
