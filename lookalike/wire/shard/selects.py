"""Owns the conversion of questions about selected records, and of the answers, to and from messages."""

from __future__ import annotations

from lookalike.cluster.select import CountOf, FacetsOf, Kind, ListOf, Question, Selected
from lookalike.model.errors import InvalidRequest
from lookalike.model.filters import check_field
from lookalike.model.matching import comparable
from lookalike.model.records import check_count, check_key
from lookalike.model.ttl import Expired
from lookalike.v1 import shard_pb2
from lookalike.wire.public.collections import ttl_from_wire, ttl_to_wire
from lookalike.wire.public.filters import filter_from_wire, filter_to_wire, scalar_from_wire, scalar_to_wire
from lookalike.wire.shard.scans import versioned_from_wire


def question_to_wire(question: Question, slots: bytes) -> shard_pb2.SelectRequest:
    """Encodes a question about the slots of a bitmap."""
    request = shard_pb2.SelectRequest(collection=question.collection, slots=slots)
    if question.filter is not None:
        request.filter.CopyFrom(filter_to_wire(question.filter))
    if question.expired is not None:
        request.expired.ttl.CopyFrom(ttl_to_wire(question.expired.ttl))
        request.expired.now_ms = question.expired.now_ms
    match question.kind:
        case CountOf():
            request.count.SetInParent()
        case ListOf(after, limit, attributes, codes, thumbnails):
            request.list.CopyFrom(
                shard_pb2.ListSelected(
                    after=after,
                    limit=limit,
                    include_attributes=attributes,
                    include_codes=codes,
                    include_thumbnails=thumbnails,
                )
            )
        case FacetsOf(attribute):
            request.facets.attribute = attribute
    return request


def question_from_wire(message: shard_pb2.SelectRequest) -> Question:
    """Raises InvalidRequest if the question is malformed."""
    condition = filter_from_wire(message.filter) if message.HasField("filter") else None
    expired = None
    if message.HasField("expired"):
        expired = Expired(ttl_from_wire(message.expired.ttl), message.expired.now_ms)
    return Question(message.collection, condition, _kind_from_wire(message), expired)


def _kind_from_wire(message: shard_pb2.SelectRequest) -> Kind:
    match message.WhichOneof("kind"):
        case "count":
            return CountOf()
        case "list":
            wanted = message.list
            check_count("limit", wanted.limit)
            after = check_key(wanted.after) if wanted.after else ""
            return ListOf(
                after, wanted.limit, wanted.include_attributes, wanted.include_codes, wanted.include_thumbnails
            )
        case "facets":
            check_field(message.facets.attribute, "attribute")
            return FacetsOf(message.facets.attribute)
        case _:
            raise InvalidRequest("kind: unknown; use a newer shard")


def selected_to_wire(answer: Selected, question: Question, stale_ms: int) -> shard_pb2.SelectResponse:
    """Encodes an answer, with the parts of the records that the question asks for."""
    response = shard_pb2.SelectResponse(
        rows=answer.rows,
        stale_ms=stale_ms,
        unknown_fields=answer.unknown_fields,
        known_fields=answer.known_fields,
        count=answer.count,
        more=answer.more,
        facets=[
            shard_pb2.FacetCount(value=scalar_to_wire(value), count=count)
            for (_, value), count in answer.facets.items()
        ],
    )
    if isinstance(question.kind, ListOf):
        wanted = question.kind
        response.records.extend(
            shard_pb2.ShardRecord(
                key=record.key,
                code=(record.code or b"") if wanted.include_codes else b"",
                attributes=record.attributes if wanted.include_attributes else "",
                version=record.version,
                thumbnail=record.thumbnail,
            )
            for record in answer.records
        )
    return response


def selected_from_wire(message: shard_pb2.SelectResponse) -> Selected:
    """Decodes an answer."""
    return Selected(
        message.rows,
        message.count,
        [versioned_from_wire(record) for record in message.records],
        message.more,
        {comparable(scalar_from_wire("facets", facet.value)): facet.count for facet in message.facets},
        list(message.unknown_fields),
        list(message.known_fields),
        message.stale_ms,
    )
