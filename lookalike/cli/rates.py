"""Owns how fast a coordinator answers searches: two readings of what it counts, and what they say together."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable, Sequence

from lookalike.model.records import CoordinatorStatus


@dataclasses.dataclass(frozen=True, slots=True)
class Rates:
    """p50_ms and p99_ms: of the searches answered between the readings; None if there were none."""

    queries_per_second: float
    p50_ms: float | None
    p99_ms: float | None


def between(before: CoordinatorStatus, after: CoordinatorStatus) -> Rates | None:
    """None if the coordinator has started anew, perhaps in another version, or no time has passed."""
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
    """As Prometheus reckons it from a histogram: evenly spread within a bucket, and the last bound for all that is
    above it. counts: of what lies up to each bound, and of the rest. None if there is nothing."""
    if not any(counts):
        return None
    rank = share * sum(counts)
    for lower, upper, count in zip((0.0, *bounds), bounds, counts, strict=False):
        if count and rank <= count:
            return lower + (upper - lower) * rank / count
        rank -= count
    return bounds[-1]


class Watched:
    """The coordinators that answer in turn, each with its own two last readings."""

    def __init__(self, addresses: int) -> None:
        """addresses: so many take turns; one that has had none in as many answers is left out."""
        self._last: dict[str, CoordinatorStatus] = {}
        self._recent: deque[tuple[str, str]] = deque(maxlen=addresses)

    def take(self, reading: CoordinatorStatus) -> Rates | None:
        """How fast the coordinator has answered since its last reading. None for its first."""
        before = self._last.get(reading.name)
        self._last[reading.name] = reading
        rates = between(before, reading) if before is not None else None
        self._recent.append((reading.name, _line(reading, rates)))
        return rates

    def lines(self) -> Iterable[str]:
        """One for each, by name."""
        return (line for _, line in sorted(dict(self._recent).items()))


def _line(reading: CoordinatorStatus, rates: Rates | None) -> str:
    if rates is None:
        return f"coordinator {reading.name}: {reading.queries:,} queries since it started"
    text = f"coordinator {reading.name}: {rates.queries_per_second:,.1f} queries a second"
    if rates.p50_ms is None:
        return text
    return f"{text}, p50 {rates.p50_ms:,.3g} ms, p99 {rates.p99_ms:,.3g} ms"
