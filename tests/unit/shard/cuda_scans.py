"""Runs searches of `shard.kernel.cuda` and prints, as a line of JSON for each, its name and whether its answer is
that of the CPU's search and of the NumPy oracle. `NUMBA_ENABLE_CUDASIM=1` must be set before Numba is imported, so
this is a program of its own, which test_cuda.py starts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numba import config

from shard.kernel import CodeMatrix, ScanStopped, Selection, View, cuda
from tests.oracle import nearest, random_codes

Case = tuple[str, bool]
ON_GPU = cuda.CudaSearch()


class Pair:
    """The same rows in two matrices: one is searched on the CPU, the other on the GPU."""

    def __init__(self, bits: int, codes: np.ndarray, ids: np.ndarray) -> None:
        self.codes, self.ids = codes, ids
        self.live = np.ones(len(codes), np.bool_)
        self.cpu, self.gpu = CodeMatrix(bits), CodeMatrix(bits, searcher=ON_GPU.search)
        for matrix in (self.cpu, self.gpu):
            matrix.append(codes, ids)

    @classmethod
    def random(cls, bits: int, n: int, seed: int = 0) -> Pair:
        rng = np.random.default_rng(seed)
        return cls(bits, random_codes(rng, n, bits), rng.integers(0, 2**64, n, np.uint64))

    def append(self, codes: np.ndarray, ids: np.ndarray) -> None:
        self.codes, self.ids = np.concatenate([self.codes, codes]), np.concatenate([self.ids, ids])
        self.live = np.concatenate([self.live, np.ones(len(ids), np.bool_)])
        for matrix in (self.cpu, self.gpu):
            matrix.append(codes, ids)

    def delete(self, numbers: np.ndarray) -> None:
        self.live[numbers] = False
        for matrix in (self.cpu, self.gpu):
            matrix.delete(numbers)

    def agrees(
        self, queries: np.ndarray, k: int, allowed: np.ndarray | None = None, limit: int | None = None
    ) -> bool:
        """Whether both answers are equal, and equal to the oracle's. allowed: bool (n,), the selected rows."""
        selection = None if allowed is None else Selection(allowed)
        found = self.gpu.scan(queries, k, selection=selection, max_distance=limit)
        kept = self.live if allowed is None else self.live & allowed
        oracle = [nearest(self.codes[kept], self.ids[kept], query, k, limit) for query in queries]
        if [hits for hits, _ in _rows(found)] != oracle:
            return False
        return _rows(self.cpu.scan(queries, k, selection=selection, max_distance=limit)) == _rows(found)


def _rows(matches: Any) -> list[tuple[list[tuple[int, int]], list[int]]]:
    """For each query, its (distance, id), and its row numbers."""
    return [
        (
            list(zip(matches.distances[q, :n].tolist(), matches.ids[q, :n].tolist(), strict=True)),
            matches.numbers[q, :n].tolist(),
        )
        for q, n in enumerate(matches.counts.tolist())
    ]


def widths() -> Iterator[Case]:
    for bits in (16, 64, 72, 256, 1_024):
        pair = Pair.random(bits, 150)
        yield f"{bits} bits", pair.agrees(random_codes(np.random.default_rng(1), 3, bits), 7)


def sizes() -> Iterator[Case]:
    queries = random_codes(np.random.default_rng(1), 2, 64)
    for n in (0, 1, 63, 64, 65):
        yield f"{n} rows", Pair.random(64, n).agrees(queries, 10)
    pair = Pair.random(64, 10)
    yield "no queries", pair.gpu.scan(queries[:0], 5).distances.shape == (0, 5)


def ties() -> Iterator[Case]:
    ids = np.random.default_rng(0).permutation(300).astype(np.uint64)
    pair = Pair(64, np.zeros((300, 8), np.uint8), ids)
    yield "equal codes", pair.agrees(np.ones((1, 8), np.uint8), 20)
    same = Pair(64, np.zeros((100, 8), np.uint8), np.full(100, 2**64 - 1, np.uint64))
    yield "equal codes and ids", same.agrees(np.ones((1, 8), np.uint8), 20)


def limits() -> Iterator[Case]:
    pair = Pair.random(64, 200)
    for limit in (0, 24, 64):
        yield f"within {limit} bits", pair.agrees(pair.codes[:2], 30, limit=limit)


def selections() -> Iterator[Case]:
    pair = Pair.random(64, 300)
    rows = np.arange(300)
    for name, allowed in (
        ("half of the rows", rows % 2 == 0),
        ("few rows", rows % 50 == 7),
        ("no rows", rows < 0),
    ):
        yield f"select {name}", pair.agrees(pair.codes[:2], 10, allowed=allowed)
    yield "select a prefix", _prefix(pair)


def _prefix(pair: Pair) -> bool:
    few = Selection(np.ones(100, np.bool_))
    found, expected = (_rows(matrix.scan(pair.codes[:2], 150, selection=few)) for matrix in (pair.gpu, pair.cpu))
    return found == expected and len(found[0][1]) == 100


def changes() -> Iterator[Case]:
    pair = Pair.random(64, 130)
    queries = pair.codes[:2]
    before: View = pair.gpu.view()
    first = _rows(pair.gpu.scan(queries, 130))
    pair.delete(np.arange(0, 130, 3, dtype=np.uint32))
    yield "after deletions", pair.agrees(queries, 130)
    rng = np.random.default_rng(3)
    pair.append(random_codes(rng, 70, 64), rng.integers(0, 2**64, 70, np.uint64))
    yield "after an append", pair.agrees(queries, 200)
    yield "an older state", _rows(pair.gpu.scan(queries, 130, view=before)) == first
    pair.append(random_codes(rng, 1_000, 64), rng.integers(0, 2**64, 1_000, np.uint64))
    yield "after a chunk grew", pair.agrees(queries[:1], 9)
    pair.delete(np.arange(10, 1_190, dtype=np.uint32))
    yield "after compaction", pair.agrees(queries, 20) and len(pair.gpu) == len(pair.cpu)


def floors() -> Iterator[Case]:
    ids = np.random.default_rng(0).permutation(200).astype(np.uint64)
    rng = np.random.default_rng(1)
    pair = Pair(16, rng.integers(0, 256, (200, 2), np.uint8), ids)
    ((everything, _),) = _rows(pair.gpu.scan(pair.codes[:1], 200))
    for at in (1, 50, 199):
        ((page, _),) = _rows(pair.gpu.scan(pair.codes[:1], 20, floor=everything[at]))
        yield f"page from match {at}", page == everything[at : at + 20]


def groups() -> Iterator[Case]:
    """The rows of a few queries at a time are collected."""
    usual, cuda._FOUND_ROWS = cuda._FOUND_ROWS, 50
    pair = Pair.random(64, 100)
    yield "queries collected in groups", pair.agrees(pair.codes[:5], 20)
    cuda._FOUND_ROWS = usual


def several_chunks() -> Iterator[Case]:
    pair, other = Pair.random(64, 100), Pair.random(64, 140, seed=1)
    second = CodeMatrix(64)
    second.append(other.codes, other.ids, np.arange(100, 240, dtype=np.uint32))
    chunks, more = pair.cpu.view(), second.view()
    view = View.of(chunks.chunks + more.chunks, 1, 240, 240)
    found, expected = (_rows(matrix.scan(other.codes[:2], 30, view=view)) for matrix in (pair.gpu, pair.cpu))
    yield "several chunks", found == expected and max(found[0][1]) >= 100 > min(found[0][1])


def stops() -> Iterator[Case]:
    pair = Pair.random(64, 10)
    try:
        pair.gpu.scan(pair.codes[:1], 3, should_stop=lambda: True)
    except ScanStopped:
        yield "stopped", pair.agrees(pair.codes[:1], 3)


CASES: tuple[Callable[[], Iterator[Case]], ...] = (
    widths, sizes, ties, limits, selections, changes, floors, groups, several_chunks, stops,
)  # fmt: skip

if __name__ == "__main__":
    assert config.ENABLE_CUDASIM, "set NUMBA_ENABLE_CUDASIM=1"
    for cases in CASES:
        for name, is_equal in cases():
            print(json.dumps([name, is_equal]), flush=True)
