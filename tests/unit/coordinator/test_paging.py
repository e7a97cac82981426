"""Cursors of searches: what they carry, and what they refuse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator import cursors, paging, scoring
from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import Place
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Query
from lookalike.model.search_options import SearchOptions

SPACE = CodeSpace(64)
QUERY = Query(image=b"\xff\xd8" + bytes(200_000))
CODES = np.arange(8, dtype=np.uint8).reshape(1, 8)
WEIGHTS = np.arange(64, dtype=np.uint16).reshape(1, 64) * 1_000


def hits(**columns: np.ndarray) -> HitTable:
    return HitTable(
        1, np.zeros(2, np.int64), np.array([3, 64], np.uint16), np.arange(2, dtype=np.uint64),
        np.array(["a", "é" * 256], np.object_), **columns,
    )  # fmt: skip


def resumed(options: SearchOptions, query: Query = QUERY) -> tuple[np.ndarray, np.ndarray | None, Place]:
    return paging.resume("c", query, options, SPACE, scoring.plan(options))


@pytest.mark.parametrize("score", ["hamming", "asymmetric"])
def test_a_cursor_carries_the_place_the_code_and_the_weights(score: str) -> None:
    options = SearchOptions(score=score, filter={"n": {"$gt": 1}}, exclude_keys=["x"])  # type: ignore[arg-type]
    is_asymmetric = score == "asymmetric"
    found = hits(ranks=np.array([0.1, 1 / 3])) if is_asymmetric else hits()
    inputs = WEIGHTS if is_asymmetric else None
    cursor = paging.cursor("c", QUERY, options, SPACE, CODES, inputs, found)
    other = dataclasses.replace(options, after=cursor, k=99, include_attributes=False, consistency="quorum")
    codes, weights, place = resumed(other)
    assert codes.tolist() == CODES.tolist()
    assert weights is None if inputs is None else np.array_equal(weights, inputs)
    assert place == Place(1 / 3 if is_asymmetric else 64, "é" * 256)


@pytest.mark.parametrize(
    "query",
    [
        Query(image=b"\xff\xd8" + bytes(200_001)),
        Query(image=b"\xff\xd9" + bytes(200_000)),
        Query(image=b"\xff\xd8" + bytes(199_999) + b"\1"),
        Query(code=bytes(8)),
        Query(key="a"),
    ],
)
def test_a_cursor_of_another_query_is_refused(query: Query) -> None:
    cursor = paging.cursor("c", QUERY, SearchOptions(), SPACE, CODES, None, hits())
    with pytest.raises(InvalidRequest, match="after: is the cursor of another search"):
        resumed(SearchOptions(after=cursor), query)


@given(st.binary(max_size=80))
def test_bytes_that_no_server_made_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"^after: "):
        resumed(SearchOptions(after=cursors.seal(b"s", content)))


@given(st.floats(), st.integers(0, 2**16 - 1), st.integers(0, 2**16 - 1), st.binary(max_size=200))
def test_a_cursor_that_was_tampered_with_is_refused_or_leads_to_a_valid_place(
    value: float, key_size: int, code_size: int, rest: bytes
) -> None:
    head = paging._HEAD.pack(
        paging._digest("c", QUERY, SearchOptions(), SPACE), value, key_size % 40, code_size % 16
    )
    try:
        codes, weights, place = resumed(SearchOptions(after=cursors.seal(b"s", head + rest)))
    except InvalidRequest as error:
        assert error.message.startswith(("after: is damaged", "key: "))  # noqa: PT017 - both outcomes are right
    else:
        assert (codes.shape, weights) == ((1, 8), None)
        assert 0 <= place.value <= 64
        assert 1 <= len(place.key.encode()) <= 512
