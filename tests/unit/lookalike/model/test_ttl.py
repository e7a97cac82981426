"""When records expire."""

from __future__ import annotations

from typing import Any

import pytest

from lookalike.model.errors import InvalidRequest
from lookalike.model.ttl import VERSION_SHIFT, Ttl, parse_age

NOW_MS = 1_800_000_000_500  # 2027-01-15T08:00:00.5Z


@pytest.mark.parametrize(("age_ms", "is_expired"), [(0, False), (60_000, False), (60_001, True), (10**9, True)])
def test_age_counts_from_the_version(age_ms: int, is_expired: bool) -> None:
    version = (NOW_MS - age_ms) << VERSION_SHIFT
    assert Ttl(age_seconds=60).is_expired(version, {}, NOW_MS) is is_expired


@pytest.mark.parametrize(
    ("value", "is_expired"),
    [
        (1_800_000_000, True),
        (1_800_000_000.5, True),
        (1_800_000_000.6, False),
        (1_800_000_001, False),
        (0, True),
        ("2027-01-15T07:59:59Z", True),
        ("2027-01-15T07:59:59.999Z", True),
        ("2027-01-15T08:00:00.500000Z", True),
        ("2027-01-15T08:00:00.500001Z", False),
        ("2027-01-15T08:00:01Z", False),
        ("2026-01-15T08:00:01+02:00", False),
        ("2027-01-15", True),
        ("2027-01-16", False),
        ("2026-99-99", False),
        ("2026-01-99T00:00:00Z", False),
        ("1", False),
        ("", False),
        (True, False),
        (None, False),
        ([0], False),
        ({"at": 0}, False),
    ],
)
def test_a_time_in_an_attribute(value: Any, is_expired: bool) -> None:
    assert Ttl(attribute="expires").is_expired(0, {"expires": value}, NOW_MS) is is_expired
    assert Ttl(attribute="a.expires").is_expired(0, {"a": {"expires": value}}, NOW_MS) is is_expired
    assert not Ttl(attribute="other").is_expired(0, {"expires": value}, NOW_MS)


@pytest.mark.parametrize(
    "given", [{}, {"age_seconds": 1, "attribute": "x"}, {"age_seconds": -1}, {"age_seconds": 10**12},
              {"age_seconds": 1.5}, {"age_seconds": True}, {"attribute": 'a"b'}],
)  # fmt: skip
def test_what_is_not_a_ttl_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="ttl"):
        Ttl(**given)


def test_ages_are_read() -> None:
    assert [parse_age(text) for text in ("90s", "15m", "12h", "30d")] == [90, 900, 43_200, 2_592_000]
    for text in ("", "30", "d", "1w", "-1d", "1.5h", "1d2h"):
        with pytest.raises(InvalidRequest, match="age"):
            parse_age(text)
