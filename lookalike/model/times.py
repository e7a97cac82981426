"""Owns the text form of dates and times, in attributes and in filters.

A time is RFC 3339 in UTC with six digits of a second, `2026-05-01T08:30:00.000000Z`; a date is `2026-05-01`. All
texts of a form have the same width, so their order as text is their order in time, and a date precedes every time
of its day. A time without a zone counts as UTC, as in Arrow; parts of a microsecond are cut off."""

from __future__ import annotations

import datetime
import re
from typing import Any

from lookalike.model.errors import InvalidRequest

# A whole date and time, as RFC 3339 or ISO 8601 write it.
_ZONE = r"Z|UTC|[+-]\d\d(:?\d\d)?"
_TIME = re.compile(
    rf"\d{{4}}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.,]\d{{1,9}})?)?( ?({_ZONE}))?", re.ASCII | re.IGNORECASE
)
_SHORTEST = len("2026-05-01T08:30")


def text_of(value: datetime.date) -> str:
    """Returns the text of a date or a time. Raises InvalidRequest for a time that is not in the years 1 to 9999 in
    UTC."""
    if not isinstance(value, datetime.datetime):
        return value.isoformat()
    if value != value:  # pandas' NaT
        raise InvalidRequest("time: is NaT (not a time); leave the field out")
    try:
        utc = value.astimezone(datetime.UTC) if value.tzinfo is not None else value
    except (OverflowError, ValueError):
        raise InvalidRequest(f"time: {value!s:.80} is outside the years 1 to 9999 in UTC; use another") from None
    return utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def plain(value: Any) -> Any:
    """Returns the text of a date or a time, and any other value as it is."""
    return text_of(value) if isinstance(value, datetime.date) else value


def json_default(value: object) -> str:
    """Returns the text of a date or a time. Raises TypeError for any other value, as `json` expects it."""
    if isinstance(value, datetime.date):
        return text_of(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def parse(text: str) -> datetime.date | None:
    """Returns the date or time that a text writes: a whole date, or a date with a time of day; None for any other
    text."""
    found = parse_time(text)
    if found is not None or len(text) != len("2026-05-01"):
        return found
    try:
        return datetime.date.fromisoformat(text)
    except ValueError:
        return None


def parse_time(text: str) -> datetime.datetime | None:
    """Returns the time that a text writes: a date with a time of day, and perhaps a zone; None for any other
    text."""
    if len(text) < _SHORTEST or text[4] != "-" or not _TIME.fullmatch(text):
        return None
    try:
        return datetime.datetime.fromisoformat(re.sub(r" ?(utc|z)$", "+00:00", text, flags=re.IGNORECASE))
    except ValueError:
        return None
