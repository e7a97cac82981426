"""Owns the coordinator's codec of queries, drafts (records before they are checked), hits and timings."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from lookalike.cluster.hits import HitTable
from lookalike.model.draft import Draft
from lookalike.model.errors import InvalidRequest
from lookalike.model.matching import Comparable
from lookalike.model.query import Query
from lookalike.model.records import Timings
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.filters import scalar_to_wire


def query_from_wire(message: search_pb2.Query) -> Query:
    """Decodes a query. Raises InvalidRequest if it is empty, or has projections or features without a code."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("query: is empty; set an image, a code or a key")
    if kind != "code" and (message.projections or message.features):
        raise InvalidRequest(
            "query: send projections and features only with a code; for an image, the encoder computes them"
        )
    return Query(**{kind: getattr(message, kind)}, projections=message.projections, features=message.features)


def draft_from_wire(message: record_pb2.Record) -> Draft:
    """Decodes a record without checking it."""
    kind = message.WhichOneof("content")
    return Draft(
        message.key,
        message.image if kind == "image" else None,
        message.code if kind == "code" else None,
        message.attributes,
        message.features,
        message.thumbnail,
    )


def hits_to_wire(hits: HitTable, bits: int) -> list[list[record_pb2.Hit]]:
    """Encodes hits.

    Args:
        hits: The hits, in order.
        bits: The number of bits of the codes. If `hits` has no ranks, the score is the share of equal bits.

    Returns:
        The hits of each query.
    """
    distances = hits.distances.tolist()
    ranks = hits.ranks.tolist() if len(hits.ranks) else [distance / bits for distance in distances]
    attributes = hits.attributes.tolist() if len(hits.attributes) else [""] * len(hits)
    rows = [
        record_pb2.Hit(key=key, distance=distance, score=1 - rank, attributes=text)
        for key, distance, rank, text in zip(hits.keys.tolist(), distances, ranks, attributes, strict=True)
    ]
    if hits.queries == 1:
        return [rows]
    return [rows[start:end] for start, end in itertools.pairwise(hits.offsets.tolist())]


def groups_to_wire(values: Sequence[Comparable], hits: list[list[record_pb2.Hit]]) -> list[search_pb2.HitGroup]:
    """Encodes groups: their values, and the hits of each."""
    return [
        search_pb2.HitGroup(value=scalar_to_wire(value), hits=members)
        for (_, value), members in zip(values, hits, strict=bool(values))
    ]


def timings_to_wire(timings: Timings) -> search_pb2.Timings:
    return search_pb2.Timings(
        encode_ms=timings.encode_ms,
        search_ms=timings.search_ms,
        merge_ms=timings.merge_ms,
        total_ms=timings.total_ms,
    )
