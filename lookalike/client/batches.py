"""Owns the division of a batch of queries into requests, and the joining of their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from more_itertools import constrained_batches

from lookalike.model.records import MAX_BATCH_HITS, MAX_BATCH_QUERIES, MAX_K, Coverage, Timings
from lookalike.model.results import SearchResult
from lookalike.model.search_options import SearchOptions
from lookalike.v1 import search_pb2 as pb

_REQUEST_BYTES = 48 * 1024 * 1024


def split_queries(queries: Iterable[pb.Query], options: SearchOptions) -> Iterator[Sequence[pb.Query]]:
    """Yields the queries of each request, in order. Reads the queries of a request only when it is due.

    One query over the limit on bytes gets its own request; without queries, there is one empty request, so that
    the server explains the error."""
    k = options.k
    hits = k if options.rerank == "none" else max(k, min(MAX_K, k * options.oversampling))
    most = max(1, min(MAX_BATCH_QUERIES, MAX_BATCH_HITS // hits))
    is_empty = True
    for part in constrained_batches(queries, _REQUEST_BYTES, most, get_len=pb.Query.ByteSize, strict=False):
        is_empty = False
        yield part
    if is_empty:
        yield ()


def join_results(parts: Sequence[Sequence[SearchResult]]) -> list[SearchResult]:
    """Returns the results of all requests, in order, as those of one batch; see `AsyncClient.search_batch`. All
    results of a request have the same coverage, timings and warnings."""
    firsts = [part[0] for part in parts if part]
    if len(firsts) < 2:
        return [result for part in parts for result in part]
    coverage = _worst([first.coverage for first in firsts])
    timings = Timings(
        *(sum(getattr(first.timings, field.name) for first in firsts) for field in dataclasses.fields(Timings))
    )
    is_exact = all(first.exact for first in firsts)
    warnings = list(dict.fromkeys(warning for first in firsts for warning in first.warnings))
    return [
        dataclasses.replace(result, coverage=coverage, exact=is_exact, timings=timings, warnings=warnings)
        for part in parts
        for result in part
    ]


def _worst(parts: Sequence[Coverage]) -> Coverage:
    missing: Mapping[int, str] = {
        partition: reason for part in parts for partition, reason in part.missing.items()
    }
    partitions = max(part.partitions for part in parts)
    return Coverage(
        partitions,
        min(partitions - len(missing), *(part.answered for part in parts)),
        min(part.rows_searched for part in parts),
        max(part.rows_known for part in parts),
        missing,
        max(part.stale_ms for part in parts),
    )
