"""Dates and times become text whose order is their order in time."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.model import times
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import attributes_text

zones = st.none() | st.integers(-14, 14).map(lambda hours: datetime.timezone(datetime.timedelta(hours=hours)))
moments = st.datetimes(datetime.datetime(2, 1, 1), datetime.datetime(9998, 1, 1), timezones=zones)


def in_utc(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(tzinfo=datetime.UTC) if moment.tzinfo is None else moment.astimezone(datetime.UTC)


@given(moments, moments)
def test_order_of_texts_is_order_in_time(first: datetime.datetime, second: datetime.datetime) -> None:
    texts = times.text_of(first), times.text_of(second)
    assert (texts[0] < texts[1]) == (in_utc(first) < in_utc(second))
    assert (texts[0] == texts[1]) == (in_utc(first) == in_utc(second))
    assert len(texts[0]) == len(texts[1]) == 27
    assert times.parse(texts[0]) == in_utc(first)


@given(moments, st.dates())
def test_a_date_precedes_every_time_of_its_day(moment: datetime.datetime, date: datetime.date) -> None:
    assert (times.text_of(date) <= times.text_of(moment)) == (date <= in_utc(moment).date())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-05-01", "2026-05-01"),
        ("2026-05-01T08:30", "2026-05-01T08:30:00.000000Z"),
        ("2026-05-01 08:30:00", "2026-05-01T08:30:00.000000Z"),
        ("2026-05-01T08:30:00.1234567Z", "2026-05-01T08:30:00.123456Z"),
        ("2026-05-01t08:30:00z", "2026-05-01T08:30:00.000000Z"),
        ("2026-05-01 01:30:00 UTC", "2026-05-01T01:30:00.000000Z"),
        ("2026-05-01T01:30:00+02:00", "2026-04-30T23:30:00.000000Z"),
        ("2026-05-01T01:30:00.5-0330", "2026-05-01T05:00:00.500000Z"),
        ("2026-05-32", None),
        ("2026-05-01T25:00", None),
        ("20260501T083000", None),
        ("2026-05-01T08:30 and more", None),
        ("May 2026", None),
        ("", None),
    ],
)
def test_written_dates_and_times_are_recognized(text: str, expected: str | None) -> None:
    found = times.parse(text)
    assert (None if found is None else times.text_of(found)) == expected


def test_attributes_may_hold_dates_and_times_at_any_depth() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    moment = datetime.datetime(2026, 5, 1, 8, 30, tzinfo=zone)
    text = attributes_text({"taken": moment, "days": [datetime.date(2026, 5, 1)], "in": {"at": moment}})
    stored = "2026-05-01T06:30:00.000000Z"
    assert json.loads(text) == {"taken": stored, "days": ["2026-05-01"], "in": {"at": stored}}


def test_times_without_a_text_are_rejected() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    with pytest.raises(InvalidRequest, match="outside the years 1 to 9999"):
        attributes_text({"taken": datetime.datetime(1, 1, 1, tzinfo=zone)})
    with pytest.raises(InvalidRequest, match="use text, numbers, booleans, null, dates"):
        attributes_text({"taken": datetime.time(1)})
