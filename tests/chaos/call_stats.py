"""Owns call statistics: successes, errors and latencies by operation and phase. A phase is the fault that is
active, or "calm"."""

from __future__ import annotations

import collections
import dataclasses
import threading

import numpy as np

CALM = "calm"


@dataclasses.dataclass(slots=True)
class _Calls:
    seconds: list[float] = dataclasses.field(default_factory=list)
    failures: int = 0


class CallStats:
    """Counts calls. Thread-safe."""

    def __init__(self) -> None:
        self.phase = CALM
        self._calls: dict[tuple[str, str], _Calls] = collections.defaultdict(_Calls)
        self._errors: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()

    def succeeded(self, operation: str, phase: str, seconds: float) -> None:
        with self._lock:
            self._calls[operation, phase].seconds.append(seconds)

    def failed(self, operation: str, phase: str, error: Exception) -> None:
        with self._lock:
            self._calls[operation, phase].failures += 1
            self._errors[f"{operation}: {type(error).__name__}"] += 1

    def count(self, operation: str) -> int:
        """Returns the number of successful calls."""
        with self._lock:
            return sum(len(calls.seconds) for (name, _), calls in self._calls.items() if name == operation)

    def counts(self) -> dict[str, int]:
        """Returns the number of successful calls of each operation."""
        with self._lock:
            names = sorted({name for name, _ in self._calls})
        return {name: self.count(name) for name in names}

    def availability(self, operation: str) -> float | None:
        """Returns the share of calls that succeeded, or None if there were none."""
        with self._lock:
            matching = [calls for (name, _), calls in self._calls.items() if name == operation]
            succeeded = sum(len(calls.seconds) for calls in matching)
            failed = sum(calls.failures for calls in matching)
        return round(succeeded / (succeeded + failed), 5) if succeeded + failed else None

    @property
    def errors(self) -> dict[str, int]:
        """Returns the number of failed calls by operation and error."""
        with self._lock:
            return dict(sorted(self._errors.items()))

    def phases(self) -> dict[str, dict[str, dict[str, float | int]]]:
        """Returns, by phase and operation: calls, failures, and the p50 and p99 latency in milliseconds."""
        found: dict[str, dict[str, dict[str, float | int]]] = collections.defaultdict(dict)
        with self._lock:
            for (operation, phase), calls in sorted(self._calls.items()):
                row: dict[str, float | int] = {"calls": len(calls.seconds), "failures": calls.failures}
                if calls.seconds:
                    median, high = np.percentile(calls.seconds, [50, 99]) * 1000
                    row |= {"p50_ms": round(float(median), 1), "p99_ms": round(float(high), 1)}
                found[phase][operation] = row
        return dict(found)
