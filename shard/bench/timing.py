"""Owns the timing of calls, and `Figure`, the form of a measurement in the reports."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

MIN_ROUNDS = 5
_PACKAGES = ("numpy", "numba", "llvmlite", "faiss-cpu")


@dataclasses.dataclass(frozen=True, slots=True)
class Figure:
    """One measurement. The field names are the keys of the JSON output.

    Attributes:
        what: The name of the measurement.
        bits: Code width.
        rows: Codes searched.
        k: Hits per query.
        queries: Batch size.
        threads: Threads of the scan.
        milliseconds: Time of the whole batch, the best of several rounds.
        compared: GB of codes compared per second: queries times bytes of codes.
        memory_share: Share of the memory bandwidth.
        ratio: The baseline's time divided by ours, in the same rounds.
        beside: The name of the baseline.
        note: A remark.
    """

    what: str
    bits: int
    rows: int
    k: int
    queries: int
    threads: int
    milliseconds: float
    compared: float
    memory_share: float | None = None
    ratio: float | None = None
    beside: str = ""
    note: str = ""


def best_seconds(calls: Mapping[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Returns the shortest time of each call.

    The calls alternate, so that noise affects all of them: one untimed round, then rounds until `seconds` have
    passed, at least `MIN_ROUNDS`."""
    for call in calls.values():
        call()
    best = dict.fromkeys(calls, float("inf"))
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() < until:
        for name, call in calls.items():
            best[name] = min(best[name], once_seconds(call))
        rounds += 1
    return best


def once_seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def reductions(data: npt.NDArray[np.uint8]) -> dict[str, Callable[[], object]]:
    """Returns simple calls that read all of `data`; the fastest one measures the memory bandwidth."""
    words = data.reshape(-1)[: data.size // 8 * 8].view(np.uint64)
    return {
        "memory sum": lambda: np.add.reduce(words),
        "memory xor": lambda: np.bitwise_xor.reduce(words),
        "memory max": lambda: np.maximum.reduce(words),
    }


def memory_seconds(best: Mapping[str, float]) -> float:
    return min(seconds for name, seconds in best.items() if name.startswith("memory "))


def machine() -> dict[str, object]:
    """Returns the hardware and the versions that the figures were measured with."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {"processor": processor(), "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def processor() -> str:
    """Returns the processor's name and its relevant vector instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in reversed(lines))}
    flags = set(facts.get("flags", "").split())
    vectors = [flag for flag in ("sse4_2", "avx2", "avx512f", "avx512_vpopcntdq") if flag in flags]
    return f"{facts.get('model name', platform.machine())} ({', '.join(vectors) or 'vectors unknown'})"
