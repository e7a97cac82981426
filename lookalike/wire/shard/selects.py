"""Owns the conversion of questions about selected records, and of the answers, to and from messages."""

from __future__ import annotations

from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import ScanResult
from lookalike.cluster.select import (
    CountOf,
    FacetsOf,
    GroupPlace,
    GroupsOf,
    Kind,
    ListOf,
    MembersOf,
    Near,
    Question,
    Selected,
)
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.filters import check_field
from lookalike.model.matching import comparable
from lookalike.model.records import MAX_K, MAX_PAGE_RECORDS, check_count, check_key
from lookalike.model.ttl import Expired
from lookalike.v1 import shard_pb2
from lookalike.wire.public.collections import ttl_from_wire, ttl_to_wire
from lookalike.wire.public.filters import filter_from_wire, filter_to_wire, scalar_from_wire, scalar_to_wire
from lookalike.wire.public.listed import ids_to_wire, listed_from_wire, listed_to_wire
from lookalike.wire.shard.scans import (
    excluded_from_wire,
    scan_result_from_wire,
    scan_result_to_wire,
    versioned_to_wire,
)


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
                    columns=True,
                )
            )
        case FacetsOf(attribute):
            request.facets.attribute = attribute
        case GroupsOf(near, k):
            request.groups.CopyFrom(shard_pb2.NearestGroups(near=_near_to_wire(near), k=k))
        case MembersOf(near, values, size, include_attributes):
            request.members.CopyFrom(
                shard_pb2.GroupMembers(
                    near=_near_to_wire(near),
                    values=[scalar_to_wire(value) for _, value in values],
                    size=size,
                    include_attributes=include_attributes,
                )
            )
    return request


def question_from_wire(message: shard_pb2.SelectRequest) -> Question:
    """Raises InvalidRequest if the question is malformed."""
    condition = filter_from_wire(message.filter) if message.HasField("filter") else None
    expired = None
    if message.HasField("expired"):
        if not message.HasField("list"):
            raise InvalidRequest("expired: needs `list`; use a newer shard")
        expired = Expired(ttl_from_wire(message.expired.ttl), message.expired.now_ms)
    return Question(message.collection, condition, _kind_from_wire(message), expired)


def _kind_from_wire(message: shard_pb2.SelectRequest) -> Kind:
    match message.WhichOneof("kind"):
        case "count":
            return CountOf()
        case "list":
            wanted = message.list
            check_count("limit", wanted.limit, MAX_PAGE_RECORDS)
            after = check_key(wanted.after) if wanted.after else ""
            return ListOf(
                after, wanted.limit, wanted.include_attributes, wanted.include_codes, wanted.include_thumbnails
            )
        case "facets":
            check_field(message.facets.attribute, "attribute")
            return FacetsOf(message.facets.attribute)
        case "groups":
            check_count("k", message.groups.k, MAX_K + 1)
            return GroupsOf(_near_from_wire(message.groups.near), message.groups.k)
        case "members":
            members = message.members
            check_count("values", len(members.values), MAX_K)
            check_count("size", members.size, MAX_K)
            values = tuple(comparable(scalar_from_wire("values", value)) for value in members.values)
            return MembersOf(_near_from_wire(members.near), values, members.size, members.include_attributes)
        case _:
            raise InvalidRequest("kind: unknown; use a newer shard")


def _near_to_wire(near: Near) -> shard_pb2.Near:
    return shard_pb2.Near(
        attribute=near.attribute,
        fingerprint=near.fingerprint,
        code=near.code,
        max_distance=near.max_distance,
        exclude_keys=near.exclude_keys,
    )


def _near_from_wire(message: shard_pb2.Near) -> Near:
    check_field(message.attribute, "attribute")
    return Near(
        message.attribute,
        message.fingerprint,
        message.code,
        message.max_distance if message.HasField("max_distance") else None,
        excluded_from_wire(message.exclude_keys),
    )


def selected_to_wire(answer: Selected, as_columns: bool, stale_ms: int) -> shard_pb2.SelectResponse:
    """Encodes an answer. Its list becomes columns or, for a coordinator that does not ask for these, records."""
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
        groups=[
            shard_pb2.NearGroup(value=scalar_to_wire(group.value[1]), distance=group.distance, id=group.id)
            for group in answer.groups
        ],
        hits=None if answer.hits is None else scan_result_to_wire(ScanResult(answer.hits, 0)),
    )
    if answer.listed is not None and as_columns:
        response.columns.CopyFrom(listed_to_wire(answer.listed))
        response.ids = ids_to_wire(answer.listed)
    elif answer.listed is not None:
        response.records.extend(versioned_to_wire(record) for record in answer.listed.records())
    return response


def selected_from_wire(message: shard_pb2.SelectResponse) -> Selected:
    """Decodes an answer."""
    return Selected(
        message.rows,
        message.count,
        listed_from_wire(message.columns, message.ids) if message.HasField("columns") else None,
        message.more,
        {comparable(scalar_from_wire("facets", facet.value)): facet.count for facet in message.facets},
        list(message.unknown_fields),
        list(message.known_fields),
        message.stale_ms,
        [
            GroupPlace(comparable(scalar_from_wire("groups", group.value)), group.distance, group.id)
            for group in message.groups
        ],
        _hits_from_wire(message),
    )


def _hits_from_wire(message: shard_pb2.SelectResponse) -> HitTable | None:
    if not message.HasField("hits"):
        return None
    result = scan_result_from_wire(message.hits)
    assert not isinstance(result, LookalikeError), "the whole response would be an error"
    return result.hits
