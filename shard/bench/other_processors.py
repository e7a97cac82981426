"""Run as a process, with the bits and FAISS's vector level: time the first search, check answers against NumPy,
time searches beside FAISS. The environment says for which processor Numba compiles and where it keeps that."""

from __future__ import annotations

import json
import sys
import time

import numpy as np

from shard.bench import rivals
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
    told: dict[str, object] = {"rows": rows, "first_seconds": time.perf_counter() - started}
    check([bits])
    told["faiss_level"] = rivals.restrict(sys.argv[2]) if len(sys.argv) > 2 else ""
    bench = Bench.of(codes)
    for batch in (1, 64):
        best = best_seconds({"own": bench.own(batch), **bench.rival(batch)}, 0.5)
        told[f"seconds_{batch}"] = best["own"]
        told[f"ratio_{batch}"] = best["rival"] / best["own"] if "rival" in best else 0
    print(json.dumps(told))


if __name__ == "__main__":
    main()
