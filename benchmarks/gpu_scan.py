"""The scan of random codes on a GPU against the CPU's, for `benchmarks.gpu`. Imports Numba."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu_timing import Timer
from shard.kernel import CodeMatrix
from shard.kernel.cuda import CudaSearch

BITS, K = 256, 10
_ROWS_AT_ONCE = 1_000_000


def scans(rows: int, batches: tuple[int, ...], timer: Timer, seconds: float) -> Iterator[dict[str, Any]]:
    """Compares the answers, then measures both sides.

    Args:
        rows: The number of codes.
        batches: The numbers of queries in a search.
        timer: Measures the rates.
        seconds: The time for all measurements.

    Yields:
        A figure for each number of queries and side.

    Raises:
        RuntimeError: If no GPU is usable.
    """
    random = np.random.default_rng(0)
    matrices = {"gpu": CodeMatrix(BITS, searcher=CudaSearch().search), "cpu": CodeMatrix(BITS)}
    for first in range(0, rows, _ROWS_AT_ONCE):
        codes = random.integers(0, 256, (min(_ROWS_AT_ONCE, rows - first), BITS // 8), np.uint8)
        ids = random.integers(0, 2**64, len(codes), np.uint64)
        for matrix in matrices.values():
            matrix.append(codes, ids)
    threads = len(os.sched_getaffinity(0))
    for batch in batches:
        queries = random.integers(0, 256, (batch, BITS // 8), np.uint8)
        found = [matrix.search(queries, K, threads) for matrix in matrices.values()]
        are_equal = all(np.array_equal(*sides) for sides in zip(*found, strict=True))
        for name, matrix in matrices.items():

            def run(matrix: CodeMatrix = matrix, queries: np.ndarray = queries) -> int:
                matrix.search(queries, K, threads)
                return len(queries)

            rate = timer.rate(run, seconds / len(batches) / len(matrices))
            yield {
                "figure": "scan",
                "side": name,
                "threads": threads if name == "cpu" else None,
                "rows": rows,
                "bits": BITS,
                "k": K,
                "queries": batch,
                "answers_are_equal": are_equal,
                "queries_per_second": rate["images_per_second"],
                "gpu_busy_percent": rate.get("gpu_busy_percent"),
            }
