"""Owns a coordinator's search rate and latency, computed from two readings of its counters."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence

from lookalike.model.status import CoordinatorStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """`p50_ms` and `p99_ms` are latencies of the searches between the readings; None without such searches."""

    queries_per_second: float
    p50_ms: float | None
    p99_ms: float | None


def between(before: CoordinatorStatus, after: CoordinatorStatus) -> Rates | None:
    """Computes the rates between two readings. None if the coordinator was restarted or no time has passed."""
    seconds = after.uptime_seconds - before.uptime_seconds
    if seconds <= 0 or before.bounds_ms != after.bounds_ms:
        return None
    searches = [now - then for then, now in zip(before.searches, after.searches, strict=True)]
    queries = after.queries - before.queries
    if min([queries, *searches]) < 0:
        return None
    p50, p99 = (quantile(after.bounds_ms, searches, share) for share in (0.5, 0.99))
    return Rates(queries / seconds, p50, p99)


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """Estimates a quantile of a histogram as Prometheus does.

    Args:
        bounds: Upper bounds of the buckets.
        counts: Count per bucket, and one more for values above the last bound.
        share: The quantile, 0..1.

    Returns:
        The quantile, interpolated linearly within its bucket. The last bound if the quantile is above it; None if
        all counts are 0.
    """
    if not any(counts):
        return None
    rank = share * sum(counts)
    for lower, upper, count in zip((0.0, *bounds), bounds, counts, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * rank / count
        rank -= count
    return bounds[-1]


class CoordinatorRates:
    """The rates of several coordinators that answer in turn, computed from the last two readings of each."""

    def __init__(self, addresses: int) -> None:
        """addresses: The number of coordinators. `lines` omits those that gave none of the last `addresses`
        readings."""
        self._last: dict[str, CoordinatorStatus] = {}
        self._recent: deque[tuple[str, str]] = deque(maxlen=addresses)

    def add(self, reading: CoordinatorStatus) -> Rates | None:
        """Adds a reading. Returns the rates since the coordinator's previous reading; None if there is none."""
        before = self._last.get(reading.name)
        self._last[reading.name] = reading
        rates = between(before, reading) if before is not None else None
        self._recent.append((reading.name, _line(reading, rates)))
        return rates

    def lines(self) -> Iterable[str]:
        """One line per coordinator, by name."""
        return (line for _, line in sorted(dict(self._recent).items()))


def _line(reading: CoordinatorStatus, rates: Rates | None) -> str:
    if rates is None:
        return f"coordinator {reading.name}: {reading.queries:,} queries since it started"
    text = f"coordinator {reading.name}: {rates.queries_per_second:,.1f} queries a second"
    if rates.p50_ms is None:
        return text
    return f"{text}, p50 {rates.p50_ms:,.3g} ms, p99 {rates.p99_ms:,.3g} ms"
