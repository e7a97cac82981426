"""Owns the conversion of scrolls, facets and counts to and from messages."""

from __future__ import annotations

from collections.abc import Sequence

from lookalike.cluster.listed import Listed
from lookalike.cluster.select import ListOf
from lookalike.model.filters import Scalar
from lookalike.model.records import (
    DEFAULT_PAGE,
    MAX_BATCH_RECORDS,
    MAX_PAGE_RECORDS,
    CountResult,
    Facet,
    FacetsResult,
    check_count,
)
from lookalike.v1 import record_pb2, search_pb2
from lookalike.wire.public.answers import coverage_from_wire
from lookalike.wire.public.filters import scalar_to_wire, value_from_wire
from lookalike.wire.public.listed import listed_from_wire, listed_to_wire


def list_from_wire(message: search_pb2.ScrollRequest) -> ListOf:
    """Decodes what a page is to hold. Raises InvalidRequest if the limit is out of range."""
    limit = message.limit or DEFAULT_PAGE
    check_count("limit", limit, MAX_PAGE_RECORDS if message.columns else MAX_BATCH_RECORDS)
    return ListOf("", limit, message.include_attributes, message.include_codes, message.include_thumbnails)


def page_to_wire(
    listed: Listed, cursor: str, warnings: Sequence[str], as_columns: bool
) -> search_pb2.ScrollResponse:
    """Encodes a page."""
    if as_columns:
        return search_pb2.ScrollResponse(columns=listed_to_wire(listed), cursor=cursor, warnings=warnings)
    return search_pb2.ScrollResponse(
        records=[
            record_pb2.Record(
                key=record.key,
                code=record.code or b"",
                attributes=record.attributes,
                version=record.version,
                thumbnail=record.thumbnail,
            )
            for record in listed.records()
        ],
        cursor=cursor,
        warnings=warnings,
    )


def page_from_wire(message: search_pb2.ScrollResponse) -> tuple[Listed, str, list[str]]:
    """Decodes a page of columns: its records, without ids, its cursor and its warnings."""
    return listed_from_wire(message.columns), message.cursor, list(message.warnings)


def count_from_wire(message: search_pb2.CountResponse) -> CountResult:
    """Decodes a count."""
    return CountResult(message.count, coverage_from_wire(message.coverage), list(message.warnings))


def facet_to_wire(value: Scalar, count: int) -> search_pb2.Facet:
    """Encodes a value and its count."""
    return search_pb2.Facet(value=scalar_to_wire(value), count=count)


def facets_from_wire(message: search_pb2.FacetsResponse) -> FacetsResult:
    """Decodes facets."""
    return FacetsResult(
        [Facet(value_from_wire("facets", facet.value), facet.count) for facet in message.facets],
        message.other_values,
        message.other_count,
        coverage_from_wire(message.coverage),
        list(message.warnings),
    )
