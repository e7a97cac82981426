"""The JSON form of filters: what each document means, and which are rejected."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from lookalike import filters
from lookalike.model import filter_language
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import And, Equals, Exists, In, Not, Or, Prefix, Range

MOMENT = datetime.datetime(2026, 5, 1, 8, 30)
STORED = "2026-05-01T08:30:00.000000Z"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"a": "cat"}, Equals("a", "cat")),
        ({"a": None}, Equals("a", None)),
        ({"a": {"$eq": None}}, Equals("a", None)),
        ({"a": {"$ne": 1}}, Not(Equals("a", 1))),
        ({"a": {"$in": [1, None, True]}}, In("a", (1, None, True))),
        ({"a": {"$nin": ["x"]}}, Not(In("a", ("x",)))),
        ({"a": {"$exists": True}}, Exists("a")),
        ({"a": {"$exists": False}}, Not(Exists("a"))),
        ({"a": {"$prefix": "2024/"}}, Prefix("a", "2024/")),
        ({"a": {"$gt": 2**53 + 1}}, Range("a", gt=2**53 + 1)),
        ({"a": {"$gte": "b", "$lt": "c"}}, Range("a", gte="b", lt="c")),
        ({"a": MOMENT}, Equals("a", STORED)),
        ({"a": {"$in": [MOMENT, datetime.date(2026, 5, 1)]}}, In("a", (STORED, "2026-05-01"))),
        ({"a": {"$lte": MOMENT}}, Range("a", lte=STORED)),
        ({"a": {"$date": "2026-05-01T10:30:00+02:00"}}, Equals("a", STORED)),
        ({"a": {"$gt": {"$date": "2026-05-01T08:30Z"}}}, Range("a", gt=STORED)),
        ({"a": {"$gt": {"$date": "2026-05-01"}}}, Range("a", gt="2026-05-01")),
        ({"$key": {"$prefix": "2024/"}}, Prefix("$key", "2024/")),
        ({"$key": "a.jpg"}, Equals("$key", "a.jpg")),
        ({"a": {"$ne": 1, "$gt": 0}}, And((Range("a", gt=0), Not(Equals("a", 1))))),
        ({"$or": [{"a": 1}, {"$not": {"b": 2}}]}, Or((Equals("a", 1), Not(Equals("b", 2))))),
    ],
)
def test_documents_mean_these_filters(document: dict[str, Any], expected: filters.Filter) -> None:
    assert filters.parse(document) == expected


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"a": {"$gt": None}}, "not null"),
        ({"a": {"$gt": True}}, "not bool"),
        ({"a": {"$gt": float("nan")}}, "at least one bound"),
        ({"a": {"$gt": 1, "$lt": "b"}}, "use one kind"),
        ({"a": {"$gt": 2**63}}, "does not fit in 64 bits; store such numbers as text"),
        ({"a": 2**63}, "does not fit in 64 bits"),
        ({"a": {"$nin": "x"}}, r"\$nin takes a list"),
        ({"a": {"$nin": []}}, "takes 1..100,000 values, not 0"),
        ({"a": {"$in": [0] * 100_001}}, "not 100,001"),
        ({"a": {"$exists": 1}}, "takes true or false"),
        ({"a": {"$prefix": None}}, "takes text, not NoneType"),
        ({"a": {"$date": 1}}, "is not a date"),
        ({"a": {"$date": "2026-05-01", "$gt": 1}}, "is not a date"),
        ({"a": "\ud800"}, "not valid Unicode"),
        ({"a": {"$like": "x"}}, r"unknown; use one of \$eq, \$ne, \$in, \$nin, \$prefix, \$exists, \$gt"),
        ({"$id": "x"}, r"use \$and, \$or, \$not, \$key or a field"),
        ({"a": {"$in": ["x" * 9_000_000, "y" * 9_000_000]}}, "18,000,000 bytes, over 16,777,216"),
    ],
)
def test_malformed_documents_are_rejected(document: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        filters.parse(document)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"equals": {"field": "a", "value": {"text": "b"}}}, True),
        ({"and": {"filters": []}}, True),
        ({"not": {"exists": {"field": "a"}}}, True),
        ({"range": {"field": "a", "gte": 1}}, True),
        ({"range": {}}, True),
        ({"range": {"$gte": 1}}, False),
        ({"in": "x"}, False),
        ({"label": {"$eq": 1}}, False),
        ({"equals": {"field": "a"}, "b": 1}, False),
        ({"$not": {"a": 1}}, False),
        ({}, False),
        ("equals", False),
    ],
)
def test_the_protobuf_form_is_told_apart(document: object, expected: bool) -> None:
    assert filter_language.is_message(document) is expected
