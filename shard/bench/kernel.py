"""Owns the measurements of the scan and of multi-index hashing. Each function yields figures."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from shard.bench import faiss_baseline
from shard.bench.timing import Figure, best_seconds, memory_seconds, reductions
from shard.kernel import CodeMatrix, weighted

Bytes = npt.NDArray[np.uint8]

WIDTHS = (64, 128, 256, 512, 1024, 2048)
BATCHES = (1, 4, 16, 64)
K = 10
SECONDS = 1.0
MEGABYTES = 256
FLOOD_ROWS = ASYMMETRIC_ROWS = 1_000_000
# An instruction set, Numba's name of a processor limited to it, and FAISS's name for the instruction set.
PROCESSORS = (("AVX2", "haswell", "AVX2"), ("SSE4.2", "nehalem", "NONE"))


def check(widths: Sequence[int] = WIDTHS, rows: int = 20_000) -> None:
    """Compares the kernel with NumPy at every width, ties included.

    Raises:
        AssertionError: If an answer differs.
    """
    rng = np.random.default_rng(0)
    for bits in widths:
        codes = rng.integers(0, 256, (rows, bits // 8), dtype=np.uint8)
        codes[rows // 2 :] = codes[: rows - rows // 2]
        ids = rng.permutation(rows).astype(np.uint64)
        matrix = CodeMatrix(bits)
        matrix.append(codes, ids)
        queries = codes[rng.integers(0, rows, 13)] ^ rng.integers(0, 2, (13, bits // 8), dtype=np.uint8)
        distances, found = matrix.search(queries, 25)
        for q, query in enumerate(queries):
            expected = np.bitwise_count(codes ^ query).sum(axis=1)
            order = np.lexsort((ids, expected))[:25]
            assert distances[q].tolist() == expected[order].tolist(), f"{bits} bits: distances differ from NumPy's"
            assert found[q].tolist() == ids[order].tolist(), f"{bits} bits: ids differ from NumPy's"


@dataclasses.dataclass(frozen=True, slots=True)
class Bench:
    """The same codes in the kernel and, if installed, in FAISS."""

    codes: Bytes
    matrix: CodeMatrix
    index: object

    @classmethod
    def of(cls, codes: Bytes, compare: bool = True) -> Bench:
        matrix = CodeMatrix(codes.shape[1] * 8)
        matrix.append(codes, np.random.default_rng(1).permutation(len(codes)).astype(np.uint64))
        return cls(codes, matrix, faiss_baseline.flat_index(codes) if compare else None)

    def queries(self, count: int) -> Bytes:
        return np.random.default_rng(2).integers(0, 256, (count, self.codes.shape[1]), dtype=np.uint8)

    def own(self, count: int, k: int = K, threads: int = 1) -> Callable[[], object]:
        queries = self.queries(count)
        return lambda: self.matrix.search(queries, k, threads)

    def faiss(self, count: int, k: int = K) -> dict[str, Callable[[], object]]:
        queries, index = self.queries(count), self.index
        return {} if index is None else {"faiss": lambda: index.search(queries, k)}  # type: ignore[attr-defined]

    def figure(self, what: str, queries: int, seconds: float, **more: object) -> Figure:
        fields = {"k": K, "threads": 1, **more}
        return Figure(
            what, self.matrix.bits, len(self.codes), queries=queries, milliseconds=seconds * 1e3,
            compared=queries * self.codes.nbytes / seconds / 1e9, **fields,  # type: ignore[arg-type]
        )  # fmt: skip


def random_codes(bits: int, rows: int) -> Bytes:
    return np.random.default_rng(0).integers(0, 256, (rows, bits // 8), dtype=np.uint8)


def widths(bits: Sequence[int], megabytes: int, seconds: float) -> Iterator[Figure]:
    """Measures every width in batches, against the memory bandwidth and FAISS."""
    for width in bits:
        bench = Bench.of(random_codes(width, megabytes * 2**20 * 8 // width))
        for batch in BATCHES:
            best = best_seconds(
                {"own": bench.own(batch), **bench.faiss(batch), **(reductions(bench.codes))}, seconds
            )
            yield bench.figure(
                "scan", batch, best["own"], memory_share=memory_seconds(best) * batch / best["own"],
                ratio=best["faiss"] / best["own"] if "faiss" in best else None,
                beside=faiss_baseline.NAME if "faiss" in best else "",
            )  # fmt: skip


def many_hits(bits: Sequence[int], megabytes: int, seconds: float) -> Iterator[Figure]:
    """Measures k = 100 against k = 1."""
    for width in bits:
        bench = Bench.of(random_codes(width, megabytes * 2**20 * 8 // width), compare=False)
        for batch in (1, 64):
            best = best_seconds({"one": bench.own(batch, 1), "own": bench.own(batch, 100)}, seconds)
            yield bench.figure(
                "k = 100", batch, best["own"], k=100, ratio=best["one"] / best["own"], beside="k = 1"
            )


def asymmetric(bits: Sequence[int], seconds: float) -> Iterator[Figure]:
    """Measures asymmetric scoring of all rows by one query against the Hamming scan of the same rows."""
    for width in bits:
        bench = Bench.of(random_codes(width, ASYMMETRIC_ROWS), compare=False)
        weights = np.random.default_rng(3).integers(0, 2**16, width).astype(np.uint16)
        query, view = bench.queries(1)[0], bench.matrix.view()
        differing = np.unpackbits(bench.codes[:20_000] ^ query, axis=1)
        expected = (differing * weights.astype(np.int64)).sum(axis=1)
        numbers = np.arange(len(expected), dtype=np.uint32)
        assert (weighted.weigh(view, numbers, query, weights) == expected).all(), (
            "weighted distances differ from NumPy's"
        )
        own = functools.partial(weighted.scan, view, query, weights, K)
        best = best_seconds({"hamming": bench.own(1), "own": own}, seconds)
        yield bench.figure(
            "asymmetric", 1, best["own"], ratio=best["hamming"] / best["own"], beside="Hamming scan"
        )


def threads(megabytes: int, seconds: float) -> Iterator[Figure]:
    """Measures two threads against one."""
    bench = Bench.of(random_codes(256, megabytes * 2**20 // 32), compare=False)
    best = best_seconds({"one": bench.own(64), "own": bench.own(64, threads=2)}, seconds)
    yield bench.figure("threads", 64, best["own"], threads=2, ratio=best["one"] / best["own"], beside="one thread")


def flood(seconds: float) -> Iterator[Figure]:
    """Measures scans of a million equal codes against a million random ones, with random queries and with queries
    equal to the code."""
    plain = Bench.of(random_codes(256, FLOOD_ROWS), compare=False)
    flooded = Bench.of(np.repeat(plain.codes[:1], FLOOD_ROWS, axis=0), compare=False)
    for batch in (1, 64):
        same = np.repeat(plain.codes[:1], batch, axis=0)
        best = best_seconds(
            {
                "random": plain.own(batch),
                "far": flooded.own(batch),
                "same": functools.partial(flooded.matrix.search, same, K),
            },
            seconds,
        )
        for name, note in (("far", "random queries"), ("same", "queries equal to the code")):
            ratio = best["random"] / best[name]
            yield flooded.figure(
                "flood of equal codes", batch, best[name], ratio=ratio, beside="random codes", note=note
            )


def lengths(seconds: float, most: int = 10_000_000) -> Iterator[Figure]:
    """Measures one query over increasing numbers of rows."""
    codes = random_codes(256, most)
    rows = most
    counts = []
    while rows >= most // 1_000:
        counts += [rows, rows // 3]
        rows //= 10
    for count in sorted(counts):
        bench = Bench.of(codes[:count], compare=False)
        yield bench.figure("rows", 1, best_seconds({"own": bench.own(1)}, seconds)["own"])


def batches(megabytes: int, seconds: float) -> Iterator[Figure]:
    """Measures increasing batch sizes."""
    bench = Bench.of(random_codes(256, megabytes * 2**20 // 32))
    for batch in (1, 2, 4, 8, 16, 32, 64, 128, 256):
        best = best_seconds({"own": bench.own(batch), **bench.faiss(batch)}, seconds)
        yield bench.figure(
            "batch", batch, best["own"], ratio=best["faiss"] / best["own"] if "faiss" in best else None,
            beside=faiss_baseline.NAME if "faiss" in best else "",
        )  # fmt: skip


def buckets(seconds: float, rows: int = 8_000_000, bits: int = 128) -> Iterator[Figure]:
    """Measures multi-index hashing against the scan, by the distance of the nearest row."""
    codes = random_codes(bits, rows)
    plain = Bench.of(codes, compare=False)
    hashed = CodeMatrix(bits, hashed=True)
    hashed.append(codes, np.random.default_rng(1).permutation(rows).astype(np.uint64))
    note = f"{hashed.memory_bytes / rows:.0f} bytes a row, {plain.matrix.memory_bytes / rows:.0f} without buckets"
    rng = np.random.default_rng(3)
    searches: list[tuple[str, int, int, int | None]] = [
        *((f"neighbour at {far}", far, 1, None) for far in (0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 24, 28, 32)),
        ("no neighbour", bits, 1, None),
        ("no neighbour, k = 10", bits, 10, None),
        ("within 8, one there", 8, K, 8),
        ("within 8, none there", bits, K, 8),
    ]
    for name, far, k, limit in searches:
        query = np.unpackbits(codes[rng.integers(rows)])
        if far == bits:
            query = rng.integers(0, 2, bits, dtype=np.uint8)
        else:
            query[rng.choice(bits, far, replace=False)] ^= 1
        packed = np.packbits(query)[None]
        matrices = {"own": hashed, "scan": plain.matrix}
        answers = [matrix.scan(packed, k, max_distance=limit) for matrix in matrices.values()]
        assert (
            answers[0].ids[0, : answers[0].counts[0]].tolist()
            == answers[1].ids[0, : answers[1].counts[0]].tolist()
        )
        search = {
            side: functools.partial(matrix.scan, packed, k, max_distance=limit)
            for side, matrix in matrices.items()
        }
        best = best_seconds(search, seconds)
        yield plain.figure(
            f"buckets: {name}", 1, best["own"], k=k, ratio=best["scan"] / best["own"], beside="scan", note=note
        )


def starts() -> Iterator[Figure]:
    """Measures the first search of a process, with an empty compilation cache and with a filled one."""
    with tempfile.TemporaryDirectory() as cache:
        for name in ("first search ever", "first search after a restart"):
            result = _run_process({"NUMBA_CACHE_DIR": cache}, "256")
            yield Figure(name, 256, int(result["rows"]), K, 1, 1, result["first_seconds"] * 1e3, 0.0)


def other_processors() -> Iterator[Figure]:
    """Measures the scan compiled for older instruction sets against FAISS restricted to the same instruction sets,
    after verifying the answers."""
    for name, processor, level in PROCESSORS:
        for bits in (64, 256, 2048):
            result = _run_process({"NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": ""}, str(bits), level)
            for batch in (1, 64):
                ratio, seconds = result[f"ratio_{batch}"], result[f"seconds_{batch}"]
                yield Figure(
                    f"scan on {name}", bits, int(result["rows"]), K, batch, 1, seconds * 1e3,
                    batch * result["rows"] * bits / 8 / seconds / 1e9, ratio=ratio or None,
                    beside=f"{faiss_baseline.NAME} on {result['faiss_level']}" if ratio else "",
                )  # fmt: skip


def _run_process(environment: dict[str, str], *arguments: str) -> dict[str, float]:
    """Runs `shard.bench.processor_run` in a process with this environment; returns its result."""
    command = [sys.executable, "-m", "shard.bench.processor_run", *arguments]
    done = subprocess.run(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True, timeout=300
    )
    result: dict[str, float] = json.loads(done.stdout)
    return result
