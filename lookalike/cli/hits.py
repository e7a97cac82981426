"""Owns what `lookalike search` prints: results, groups, and all hits one by one."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import Any

from lookalike.model.records import Coverage
from lookalike.model.results import Hit, SearchResult


def print_hits(hits: Iterable[Hit], as_json: bool) -> None:
    """Prints each hit as soon as it is there; as JSON, one document per line."""
    for rank, hit in enumerate(hits, 1):
        print(json.dumps(_hit_as_json(hit), ensure_ascii=False) if as_json else _line(rank, hit))


def print_result(result: SearchResult, max_distance: int | None = None) -> None:
    """Prints hits or groups, and how much of the collection they cover. max_distance: the search's."""
    for rank, hit in enumerate(result.hits, 1):
        print(_line(rank, hit))
    for group in result.groups:
        print(json.dumps(group.value, ensure_ascii=False))
        for rank, hit in enumerate(group.hits, 1):
            print(_line(rank, hit))
    coverage = result.coverage
    kind = "exact" if result.exact else "among candidates" if coverage.complete else "PARTIAL"
    print(
        f"{kind}: {coverage.answered} of {coverage.partitions} partitions, {coverage.rows_searched:,} of"
        f" {coverage.rows_known:,} rows, {result.timings.total_ms:.1f} ms"
    )
    if result.more and max_distance is not None:
        print(f"more records are within {max_distance} bits: use --all, or a larger -k")
    for partition, reason in sorted(coverage.missing.items()):
        print(f"missing partition {partition}: {reason}")
    print_warnings(result.warnings)


def print_warnings(warnings: Iterable[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def result_as_json(result: SearchResult) -> dict[str, Any]:
    """A result as a JSON document."""
    return {
        "hits": [_hit_as_json(hit) for hit in result.hits],
        "groups": [
            {"value": group.value, "hits": [_hit_as_json(hit) for hit in group.hits]} for group in result.groups
        ],
        "coverage": coverage_as_json(result.coverage),
        "exact": result.exact,
        "more": result.more,
        "cursor": result.cursor,
        "timings": dataclasses.asdict(result.timings),
        "warnings": result.warnings,
    }


def coverage_as_json(coverage: Coverage) -> dict[str, Any]:
    """Coverage as a JSON document."""
    return {**dataclasses.asdict(coverage), "complete": coverage.complete}


def _hit_as_json(hit: Hit) -> dict[str, Any]:
    """A hit as a JSON document, which cannot contain a thumbnail."""
    document = dataclasses.asdict(hit)
    del document["thumbnail"]
    return document


def _line(rank: int, hit: Hit) -> str:
    attributes = json.dumps(hit.attributes, ensure_ascii=False) if hit.attributes else ""
    return f"{rank:>3}  {hit.distance:>5} bits  {hit.score:.4f}  {hit.key}  {attributes}".rstrip()
