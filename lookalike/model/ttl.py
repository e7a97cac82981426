"""Owns when the records of a collection expire: by age, or at a time in an attribute."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from lookalike.model import times
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import check_field

MAX_AGE_SECONDS = 100 * 365 * 86_400
# The bits of a version below its milliseconds since 1970.
VERSION_SHIFT = 21
# A date, or a time in UTC: what attributes contain (`lookalike.model.times`).
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d+)?Z)?", re.ASCII)
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGE = re.compile(r"(\d{1,12})([smhd])")


@dataclasses.dataclass(frozen=True, slots=True)
class Ttl:
    """When records expire. Exactly one of the two is set.

    Args:
        age_seconds: This many seconds after the last write of the record.
        attribute: At the time in this attribute: seconds since 1970 as a number, or a time in UTC or a date as
            text (RFC 3339). A record without such a value never expires.

    Raises:
        InvalidRequest: If not exactly one is set, or it is out of range.
    """

    age_seconds: int = 0
    attribute: str = ""

    def __post_init__(self) -> None:
        if bool(self.age_seconds) == bool(self.attribute):
            raise InvalidRequest("ttl: needs an age or an attribute, one of the two")
        if self.attribute:
            check_field(self.attribute, "ttl.attribute")
        elif isinstance(self.age_seconds, bool) or not isinstance(self.age_seconds, int):
            raise InvalidRequest(f"ttl.age_seconds: is {self.age_seconds!r}; use whole seconds")
        elif not 0 < self.age_seconds <= MAX_AGE_SECONDS:
            raise InvalidRequest(f"ttl.age_seconds: is {self.age_seconds:,}; use 1..{MAX_AGE_SECONDS:,}")

    def is_expired(self, version: int, attributes: Mapping[str, Any], now_ms: int) -> bool:
        """Returns whether a record has expired.

        Args:
            version: The record's version.
            attributes: The record's attributes.
            now_ms: The time, in milliseconds since 1970.
        """
        if self.age_seconds:
            return version < self.oldest_version(now_ms)
        expires = _value(attributes, self.attribute)
        if isinstance(expires, bool):
            return False
        if isinstance(expires, int | float):
            return expires * 1000 <= now_ms
        return isinstance(expires, str) and bool(_TIME.fullmatch(expires)) and _has_passed(expires, now_ms)

    def oldest_version(self, now_ms: int) -> int:
        """Returns the version below which records have expired by age."""
        return max(0, now_ms - self.age_seconds * 1000) << VERSION_SHIFT


@dataclasses.dataclass(frozen=True, slots=True)
class Expired:
    """The records that have expired at a time. now_ms: milliseconds since 1970."""

    ttl: Ttl
    now_ms: int


def time_of(now_ms: int) -> datetime:
    """Returns a time that is given in milliseconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now_ms)


def parse_age(text: str) -> int:
    """Returns the seconds of an age such as "90s", "15m", "12h" or "30d". Raises InvalidRequest."""
    found = _AGE.fullmatch(text)
    if found is None:
        raise InvalidRequest(
            f"age: {text[:40]!r} is not an age; use a number and a unit, such as 90s, 15m, 12h or 30d"
        )
    return int(found[1]) * _UNITS[found[2]]


def _value(attributes: Mapping[str, Any], field: str) -> Any:
    value: Any = attributes
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _has_passed(text: str, now_ms: int) -> bool:
    found = times.parse(text)
    if found is not None and not isinstance(found, datetime):
        found = datetime(found.year, found.month, found.day, tzinfo=UTC)
    return found is not None and found <= time_of(now_ms)
