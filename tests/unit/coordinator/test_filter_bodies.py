"""Both forms of a filter in a JSON body give the same message."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf import json_format

from coordinator.web.filter_bodies import parse_message
from lookalike import wire
from lookalike.model import filter_language
from lookalike.model.errors import InvalidRequest
from lookalike.v1 import search_pb2 as pb


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"label": "cat"}, {"equals": {"field": "label", "value": {"text": "cat"}}}),
        ({"n": 2**53 + 1}, {"equals": {"field": "n", "value": {"integer": str(2**53 + 1)}}}),
        ({"n": None}, {"equals": {"field": "n", "value": {"null": True}}}),
        ({"n": {"$gte": 1.5}}, {"range": {"field": "n", "gte": 1.5}}),
        ({"t": {"$gte": "2026"}}, {"range": {"field": "t", "gteValue": {"text": "2026"}}}),
        ({"range": {"$prefix": "a"}}, {"prefix": {"field": "range", "text": "a"}}),
        ({"$not": {"$key": "a"}}, {"not": {"equals": {"field": "$key", "value": {"text": "a"}}}}),
    ],
)
def test_both_forms_are_accepted(document: dict[str, Any], message: dict[str, Any]) -> None:
    forms = []
    for given in (document, message):
        count, search, options = pb.CountRequest(), pb.SearchRequest(), pb.SearchOptions()
        parse_message(json.dumps({"allowPartial": True, "filter": given}), count)
        parse_message(json.dumps({"options": {"k": 3, "filter": given}}), search)
        parse_message(json.dumps({"filter": given, "k": 4}), options)
        assert (count.allow_partial, search.options.k, options.k) == (True, 3, 4)
        forms += [wire.filter_from_wire(one.filter) for one in (count, search.options, options)]
    assert set(forms) == {filter_language.parse(document)}


def test_a_body_without_a_filter_has_none() -> None:
    for text in ('{"filter": null}', "{}", '{"collection": "filter"}'):
        request = pb.CountRequest()
        parse_message(text, request)
        assert not request.HasField("filter")


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"filter": {}}', InvalidRequest, "is not a filter"),
        ('{"filter": {"a": {"$like": 1}}}', InvalidRequest, "unknown"),
        ('{"filter": {"a": 1, "a": 2}}', json_format.ParseError, "duplicate key a"),
        ('{"filter": {"a": 1}', json_format.ParseError, "Failed to load JSON"),
        ('{"filter": 3}', json_format.ParseError, "filter"),
        ('{"filters": {"a": 1}, "filter": {"a": 1}}', json_format.ParseError, "filters"),
    ],
)
def test_malformed_bodies_are_rejected(text: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_message(text, pb.CountRequest())
