"""Runs as its own process: times the first search, verifies answers against NumPy, and compares speed with FAISS.

Arguments: the code width in bits and, optionally, FAISS's SIMD level. Environment variables select the
processor that Numba compiles for, and Numba's cache folder. Prints the result as JSON."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from shard.bench import faiss_baseline
from shard.bench.kernel import Bench, check, random_codes
from shard.bench.timing import best_seconds
from shard.kernel import CodeMatrix

_MEGABYTES = 64


def main() -> None:
    bits = int(sys.argv[1])
    matrix = CodeMatrix(bits)
    rows = _MEGABYTES * 2**20 * 8 // bits
    codes = random_codes(bits, rows)
    matrix.append(codes[:64], np.arange(64, dtype=np.uint64))
    started = time.perf_counter()
    matrix.search(codes[:1], 10)
    result: dict[str, object] = {"rows": rows, "first_seconds": time.perf_counter() - started}
    check([bits])
    result["faiss_level"] = faiss_baseline.restrict(sys.argv[2]) if len(sys.argv) > 2 else ""
    bench = Bench.of(codes)
    for batch in (1, 64):
        best = best_seconds({"own": bench.own(batch), **bench.faiss(batch)}, 0.5)
        result[f"seconds_{batch}"] = best["own"]
        result[f"ratio_{batch}"] = best["faiss"] / best["own"] if "faiss" in best else 0
    print(json.dumps(result))


if __name__ == "__main__":
    main()
