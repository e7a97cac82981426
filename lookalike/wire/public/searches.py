"""Owns the codec of queries, parts of images, drafts (records before they are checked), hits and timings."""

from __future__ import annotations

import itertools
import types
from collections.abc import Mapping, Sequence

from lookalike.cluster.hits import HitTable
from lookalike.model.draft import Draft
from lookalike.model.errors import InvalidRequest
from lookalike.model.matching import Comparable
from lookalike.model.query import MAX_EXAMPLES, Box, Query, check_box
from lookalike.model.records import Timings, check_count
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.filters import scalar_to_wire

_NONE: Mapping[str, bytes] = types.MappingProxyType({})


def query_from_wire(message: search_pb2.Query) -> Query:
    """Decodes a query. Raises InvalidRequest if it is incomplete, or has parts that do not fit together."""
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest("query: is empty; set an image, a code, a key or examples")
    if kind != "code" and (message.projections or message.features):
        raise InvalidRequest(
            "query: send projections and features only with a code; for an image, the encoder computes them"
        )
    if kind == "examples":
        if message.HasField("box"):
            raise InvalidRequest("box: is set for examples as a whole; set it in the example with the image")
        return _examples_from_wire(message.examples)
    box = _box_from_wire(message, kind, "box")
    content = {kind: getattr(message, kind)}
    return Query(**content, projections=message.projections, features=message.features, box=box)


def _examples_from_wire(message: search_pb2.Examples) -> Query:
    check_count("examples", len(message.like), MAX_EXAMPLES)
    if message.not_like:
        check_count("not_like", len(message.not_like), MAX_EXAMPLES)
    like = tuple(_example_from_wire(one, f"examples[{place}]") for place, one in enumerate(message.like))
    if len(like) == 1 and not message.not_like:
        return like[0]
    return Query(
        like=like,
        not_like=tuple(
            _example_from_wire(one, f"not_like[{place}]") for place, one in enumerate(message.not_like)
        ),
    )


def _example_from_wire(message: search_pb2.Example, subject: str) -> Query:
    kind = message.WhichOneof("kind")
    if kind is None:
        raise InvalidRequest(f"{subject}: is empty; set an image, a code or a key")
    return Query(**{kind: getattr(message, kind)}, box=_box_from_wire(message, kind, f"{subject}.box"))


def _box_from_wire(message: search_pb2.Query | search_pb2.Example, kind: str, subject: str) -> Box | None:
    if not message.HasField("box"):
        return None
    if kind != "image":
        raise InvalidRequest(f"{subject}: is set for a {kind}; a box is a part of an image")
    return box_from_wire(message.box, subject)


def box_from_wire(message: record_pb2.Box, subject: str = "box") -> Box:
    """Decodes a part of an image. Raises InvalidRequest."""
    return check_box((message.x0, message.y0, message.x1, message.y1), subject)


def box_to_wire(box: Box | None) -> record_pb2.Box:
    """Encodes a part of an image; None, which is the whole image, becomes zeros."""
    return record_pb2.Box() if box is None else record_pb2.Box(x0=box[0], y0=box[1], x1=box[2], y1=box[3])


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


def hits_to_wire(hits: HitTable, bits: int, thumbnails: Mapping[str, bytes] = _NONE) -> list[list[record_pb2.Hit]]:
    """Encodes hits.

    Args:
        hits: The hits, in order.
        bits: The number of bits of the codes. If `hits` has no ranks, the score is the share of equal bits.
        thumbnails: The thumbnails of hits, by key.

    Returns:
        The hits of each query.
    """
    scores = 1 - (hits.ranks if len(hits.ranks) else hits.distances / bits)
    attributes = hits.attributes.tolist() if len(hits.attributes) else [""] * len(hits)
    rows = [
        record_pb2.Hit(key=key, distance=distance, score=score, attributes=text)
        for key, distance, score, text in zip(
            hits.keys.tolist(), hits.distances.tolist(), scores.tolist(), attributes, strict=True
        )
    ]
    if thumbnails:
        for row in rows:
            if row.key in thumbnails:
                row.thumbnail = thumbnails[row.key]
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
