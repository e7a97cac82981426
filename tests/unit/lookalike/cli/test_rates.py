"""A coordinator's search rate and latency, from its counters."""

from __future__ import annotations

import dataclasses

import pytest

from lookalike.cli.rates import CoordinatorRates, Rates, between, quantile
from lookalike.model.status import CoordinatorStatus

FIRST = CoordinatorStatus("a:7700", 100.0, 1_000, [1.0, 10.0], [500, 400, 100])
SECOND = CoordinatorStatus("a:7700", 102.0, 1_010, [1.0, 10.0], [500, 408, 100])


def test_rates_are_computed_from_two_readings() -> None:
    assert between(FIRST, SECOND) == Rates(5.0, 5.5, pytest.approx(9.91))


def test_no_searches_have_no_latency() -> None:
    assert between(FIRST, dataclasses.replace(FIRST, uptime_seconds=104.0)) == Rates(0.0, None, None)


@pytest.mark.parametrize(
    "later",
    [
        {"uptime_seconds": 1.0},
        {"uptime_seconds": 200.0, "queries": 3, "searches": [3, 0, 0]},
        {"uptime_seconds": 200.0, "bounds_ms": [2.0], "searches": [900, 300]},
        {},
    ],
)
def test_restarted_coordinator_has_no_rates(later: dict[str, object]) -> None:
    assert between(FIRST, dataclasses.replace(FIRST, **later)) is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("counts", "share", "found"),
    [
        ([4, 0, 0], 0.5, 0.5),
        ([0, 4, 0], 1.0, 10.0),
        ([2, 2, 0], 0.5, 1.0),
        ([1, 0, 3], 0.99, 10.0),
        ([0, 0, 0], 0.5, None),
    ],
)
def test_quantile_is_interpolated_within_its_bucket(counts: list[int], share: float, found: float | None) -> None:
    assert quantile([1.0, 10.0], counts, share) == found


def test_each_coordinator_has_a_line_until_it_stops_answering() -> None:
    other = CoordinatorStatus("b:7700", 5.0, 7, [1.0, 10.0], [7, 0, 0])
    rates = CoordinatorRates(2)
    for reading in (other, FIRST, dataclasses.replace(other, uptime_seconds=7.0, queries=9), SECOND):
        rates.add(reading)
    assert list(rates.lines()) == [
        "coordinator a:7700: 5.0 queries a second, p50 5.5 ms, p99 9.91 ms",
        "coordinator b:7700: 1.0 queries a second",
    ]
    rates.add(dataclasses.replace(SECOND, uptime_seconds=103.0))
    assert list(rates.lines()) == ["coordinator a:7700: 0.0 queries a second"]
