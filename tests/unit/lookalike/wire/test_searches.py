"""Queries, drafts and hits as the coordinator decodes and encodes them."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike import wire
from lookalike.cluster.hits import HitTable
from lookalike.model.draft import Draft
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Query
from lookalike.v1 import record_pb2
from lookalike.v1 import search_pb2 as pb


@pytest.mark.parametrize(
    ("message", "query"),
    [
        (pb.Query(image=b"i"), Query(image=b"i")),
        (pb.Query(key="k"), Query(key="k")),
        (pb.Query(code=b"c", projections=b"p", features=b"f"), Query(code=b"c", projections=b"p", features=b"f")),
    ],
)
def test_queries_are_decoded(message: pb.Query, query: Query) -> None:
    assert wire.query_from_wire(message) == query


@pytest.mark.parametrize(
    "message", [pb.Query(), pb.Query(key="k", features=b"f"), pb.Query(image=b"i", projections=b"p")]
)
def test_incomplete_queries_are_rejected(message: pb.Query) -> None:
    with pytest.raises(InvalidRequest, match=r"^query: "):
        wire.query_from_wire(message)


def test_drafts_are_decoded() -> None:
    record = record_pb2.Record(key="k", code=b"c", attributes="{}", features=b"f", thumbnail=b"t")
    assert wire.draft_from_wire(record) == Draft("k", None, b"c", "{}", b"f", b"t")
    assert wire.draft_from_wire(record_pb2.Record(key="k", image=b"")) == Draft("k", b"", None, "")
    assert wire.draft_from_wire(record_pb2.Record(key="k")) == Draft("k", None, None, "")


def hits(**columns: np.ndarray) -> HitTable:
    return HitTable(
        3,
        query_of=np.array([0, 0, 2]),
        distances=np.array([0, 16, 64], np.uint16),
        ids=np.arange(3, dtype=np.uint64),
        keys=np.array(["a", "b", "c"], np.object_),
        **columns,
    )


def test_without_ranks_the_score_is_the_share_of_equal_bits() -> None:
    encoded = wire.hits_to_wire(hits(), 64)
    assert [[(hit.key, hit.distance, hit.score, hit.attributes) for hit in query] for query in encoded] == [
        [("a", 0, 1.0, ""), ("b", 16, 0.75, "")],
        [],
        [("c", 64, 0.0, "")],
    ]


def test_with_ranks_the_score_follows_them() -> None:
    table = hits(ranks=np.array([0.25, 0.5, 1.0]), attributes=np.array(["{}", '{"n":1}', "{}"], np.object_))
    first, _, last = wire.hits_to_wire(table, 64)
    scores = [(hit.score, hit.attributes) for hit in [*first, *last]]
    assert scores == [
        (0.75, "{}"),
        (0.5, '{"n":1}'),
        (0.0, "{}"),
    ]
