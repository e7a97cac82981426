"""Owns counting and output: findings as they occur, and the verdict at the end."""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Iterable
from typing import Any

from tests.chaos.call_stats import CallStats
from tests.chaos.checker import Finding, Kind, Span
from tests.chaos.settings import Settings

_MAX_PRINTED = 100
VIOLATIONS = (
    Kind.LOST,
    Kind.RESURRECTED,
    Kind.DUPLICATED,
    Kind.STALE,
    Kind.FALSE_COMPLETE,
    Kind.CORRUPTED,
)


class Log:
    """Prints one line at a time, with the seconds since the start of the run."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self._lock = threading.Lock()

    def say(self, text: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self.started:8.3f} {text}", flush=True)


class Tally:
    """Counts findings by kind and prints them. Thread-safe."""

    def __init__(self, log: Log, tolerate_late: bool) -> None:
        self._log = log
        self._tolerate_late = tolerate_late
        self._counts: collections.Counter[Kind] = collections.Counter()
        self._printed = 0
        self._lock = threading.Lock()
        self.late = 0
        self.unread = 0

    def add(self, findings: Iterable[Finding], span: Span, how: str) -> None:
        """Adds findings. `how` describes the call: operation, consistency, coordinator."""
        for finding in findings:
            self._add(finding, span, how)

    def count(self, kind: Kind) -> int:
        return self._counts[kind]

    @property
    def is_clean(self) -> bool:
        return self.unread == 0 and not any(self._counts[kind] for kind in VIOLATIONS)

    def _add(self, finding: Finding, span: Span, how: str) -> None:
        with self._lock:
            self.late += finding.is_late
            if finding.is_late and self._tolerate_late:
                return
            self._counts[finding.kind] += 1
            if finding.kind is Kind.STALE_WITHIN_BOUND or self._printed == _MAX_PRINTED:
                return
            self._printed += 1
        self._log.say(
            f"VIOLATION {finding.kind}{' (late attempt)' if finding.is_late else ''}: {how}: key {finding.key!r}:"
            f" {finding.text}; read from {span.began:.3f} to {span.ended:.3f}"
            f" (run began {self._log.started:.3f}), staleness bound {span.stale_seconds * 1000:.0f} ms"
        )


def verdict(
    settings: Settings, tally: Tally, stats: CallStats, acknowledged: int, faults: collections.Counter[str],
    is_settled: bool, deaths: int,
) -> dict[str, Any]:  # fmt: skip
    """Returns the verdict as JSON-serialisable data, the most important fields first."""
    return {
        "seed": settings.seed,
        "seconds": settings.seconds,
        "acknowledged": acknowledged,
        **{str(kind): tally.count(kind) for kind in VIOLATIONS},
        "unread": tally.unread,
        "stale_within_bound": tally.count(Kind.STALE_WITHIN_BOUND),
        "late_attempts": tally.late,
        "faults": faults.total(),
        "faults_by_kind": dict(sorted(faults.items())),
        "searches": stats.count("search"),
        "search_availability": stats.availability("search"),
        "gets": stats.count("get"),
        "get_availability": stats.availability("get"),
        "write_availability": stats.availability("write"),
        "operations": stats.counts(),
        "settled": is_settled,
        "process_deaths": deaths,
        "partitions": settings.partitions,
        "replicas": settings.replicas,
        "write_quorum": settings.write_quorum,
        "errors": stats.errors,
        "phases": stats.phases(),
    }


def print_phases(phases: dict[str, dict[str, dict[str, float | int]]]) -> None:
    print(f"{'phase':16} {'operation':9} {'calls':>7} {'failed':>7} {'p50 ms':>8} {'p99 ms':>8}")
    for phase, operations in phases.items():
        for operation, row in operations.items():
            print(
                f"{phase:16} {operation:9} {row['calls']:7} {row['failures']:7}"
                f" {row.get('p50_ms', '-'):>8} {row.get('p99_ms', '-'):>8}"
            )


def print_verdict(found: dict[str, Any]) -> None:
    print_phases(found["phases"])
    print(json.dumps(found), flush=True)
