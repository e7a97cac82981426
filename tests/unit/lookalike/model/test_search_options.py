"""Search options: their checks, their keyword form, and their way over the wire."""

from __future__ import annotations

import inspect
import typing

import pytest

from lookalike import AsyncClient, Client, SearchOptions, filters, wire
from lookalike.model.errors import InvalidRequest
from lookalike.model.search_options import SearchKeywords
from lookalike.v1 import search_pb2 as pb

EVERY_OPTION = SearchOptions(
    k=3, max_distance=0, filter={"label": "cat"}, include_attributes=False, allow_partial=True, rerank="features",
    consistency="quorum", score="asymmetric", oversampling=4, after="cursor", offset=7, exclude_keys=("a", "b"),
    group_by="label", group_size=2, include_thumbnails=True,
)  # fmt: skip


def test_keyword_arguments_have_the_fields_types() -> None:
    assert typing.get_type_hints(SearchKeywords) == typing.get_type_hints(SearchOptions)


def test_every_option_survives_the_wire() -> None:
    defaults = SearchOptions()
    assert all(
        getattr(EVERY_OPTION, name) != getattr(defaults, name) for name in typing.get_type_hints(SearchOptions)
    )
    for options in (EVERY_OPTION, defaults):
        assert wire.options_from_wire(wire.options_to_wire(options)) == options


def test_unset_enums_and_oversampling_have_default_values() -> None:
    assert wire.options_from_wire(pb.SearchOptions(k=10, include_attributes=True)) == SearchOptions()


def test_server_limits_k() -> None:
    with pytest.raises(InvalidRequest, match="k: is 6; use a whole number from 1 to 5"):
        wire.options_from_wire(pb.SearchOptions(k=6), max_k=5)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("k", 0, "k: is 0"),
        ("k", True, "k: is True"),
        ("max_distance", -1, "max_distance: is -1; use a number of bits"),
        ("max_distance", 2**32, "max_distance: is 4294967296"),
        ("oversampling", 1_001, "oversampling: is 1001"),
        ("filter", {}, "filter: "),
        ("filter", "label", "filter: 'label' is not a filter"),
        ("filter", filters.And(()), "filter: \\$and and \\$or need"),
        ("rerank", "magic", "rerank: unknown value 'magic'; use none, asymmetric or features"),
        ("consistency", "all", "consistency: unknown value 'all'; use one or quorum"),
        ("score", ["hamming"], "score: unknown value"),
        ("after", b"a", "after: is bytes"),
        ("offset", -1, "offset: is -1; use a whole number from 0 to 9,999"),
        ("offset", 9_995, "offset: 9,995 and k 10 are over 10,000 together"),
        ("exclude_keys", "a", "exclude_keys: is one str"),
        ("exclude_keys", [""], "key: is empty"),
        ("exclude_keys", [f"k{i}" for i in range(10_001)], "exclude_keys: 10,001 in one request"),
        ("group_by", "", "group_by: field '' is empty"),
        ("group_size", 0, "group_size: is 0; use"),
        ("group_size", 1_001, "group_size: 1,001 times k 10 is over 10,000"),
    ],
)
def test_invalid_option_is_named(field: str, value: object, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        SearchOptions(**{field: value})  # type: ignore[arg-type]


def test_filter_is_accepted_as_document_and_as_object() -> None:
    condition = filters.Equals("label", "cat")
    assert SearchOptions(filter=condition) == SearchOptions(filter={"label": "cat"})
    assert EVERY_OPTION.condition == condition


@pytest.mark.parametrize("client", [Client, AsyncClient])
@pytest.mark.parametrize("name", ["search", "search_batch"])
def test_methods_show_every_option_with_its_default(client: type, name: str) -> None:
    shown = inspect.signature(getattr(client, name)).parameters
    for option in inspect.signature(SearchOptions).parameters.values():
        assert shown[option.name] == option.replace(kind=option.KEYWORD_ONLY)
    assert "keywords" not in shown


def test_keyword_arguments_override_options() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidRequest, match="k: is 0"):
        client.search(collection="photos", key="a", options=SearchOptions(k=5), k=0)
