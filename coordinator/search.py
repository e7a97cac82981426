"""Owns a search from request to answer: encoding, fan-out, coverage and the final order."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from prometheus_client import Counter

from coordinator import examples, grouped_search, paging, quorum_scan, scoring, thumbnails
from coordinator.catalog import Catalog, Layout
from coordinator.cluster import Cluster
from coordinator.coverage import CoverageTracker, require_acceptable
from coordinator.examples import Combined
from coordinator.fan_out import Answers, FanOut, ScanAnswer
from coordinator.query_encoder import QueryEncoder
from coordinator.reader import Reader
from coordinator.routing import Share
from coordinator.scoring import ScoringPlan
from coordinator.selector import Selector
from coordinator.settling import settled
from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import Codes, Inputs, Place, ScanGroup, ScanResult, Scoring
from lookalike.cluster.select import Near
from lookalike.cluster.unknown_fields import warnings_of
from lookalike.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    PartitionUnavailable,
)
from lookalike.model.matching import Comparable
from lookalike.model.query import Query
from lookalike.model.records import (
    MAX_BATCH_HITS,
    MAX_KEY_BYTES,
    MAX_MERGED_BYTES,
    Coverage,
    Timings,
    answer_too_large,
)
from lookalike.model.search_options import SearchOptions
from lookalike.server.observe import metrics
from lookalike.server.observe.later import later

# So many keys fit into a message even if each has the maximum length.
_FEW_KEYS = MAX_MERGED_BYTES // MAX_KEY_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a search.

    Attributes:
        hits: The hits of all queries; of a search by groups, those of all groups.
        is_exact: True if no matching record that is left out can be nearer than the hits.
        bits: The width of the codes.
        coverage: Which partitions were searched.
        timings: How long each stage took.
        thumbnails: Those of the hits, by key, if requested.
        warnings: What may make the answer less useful than it seems, as sentences.
        more: For each query, whether k left out hits that follow.
        cursor: For `SearchOptions.after`; empty if the search cannot be continued.
        groups: The values of the groups, if the search is by groups.
    """

    hits: HitTable
    is_exact: bool
    bits: int
    coverage: Coverage
    timings: Timings
    thumbnails: Mapping[str, bytes]
    warnings: Sequence[str] = ()
    more: Sequence[bool] = (False,)
    cursor: str = ""
    groups: Sequence[Comparable] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class _Asked:
    """What the shards are asked: see `ScanGroup`. combined: the queries, if any has several examples."""

    codes: Codes
    inputs: Inputs | None
    scoring: Scoring
    after: Place | None
    warnings: Sequence[str]
    combined: Combined | None = None


class Searcher:
    """Answers searches, from one replica of each partition or from a majority."""

    def __init__(
        self, cluster: Cluster, catalog: Catalog, encoder: QueryEncoder, reader: Reader, selector: Selector
    ) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._encoder = encoder
        self._reader = reader
        self._selector = selector
        coverage = CoverageTracker()
        self._fan_outs = {
            "one": FanOut(cluster, self._scan_one, coverage),
            "quorum": FanOut(cluster, self._scan_majority, coverage),
        }

    @property
    def waiting(self) -> int:
        """Searches that wait to be sent to the shards."""
        return sum(fan_out.waiting for fan_out in self._fan_outs.values())

    async def close(self) -> None:
        for fan_out in self._fan_outs.values():
            await fan_out.close()

    def _scan_one(
        self, share: Share, groups: Sequence[ScanGroup], deadline: float
    ) -> Coroutine[Any, Any, list[ScanAnswer]]:
        return self._cluster.group(share.partition).scan(groups, share.data, deadline)

    def _scan_majority(
        self, share: Share, groups: Sequence[ScanGroup], deadline: float
    ) -> Coroutine[Any, Any, list[ScanAnswer]]:
        return quorum_scan.scan(self._cluster.group(share.partition), groups, share.data, deadline)

    async def search(
        self, collection: str, queries: Sequence[Query], fingerprint: str, options: SearchOptions, deadline: float
    ) -> Answer:
        """Returns the exact answer to each query.

        Args:
            collection: The collection's name.
            queries: What to search for.
            fingerprint: The code space of the queries that are codes.
            options: How to search. `after` and `group_by` are for one query only.
            deadline: A time of the running loop's clock.

        Raises:
            InvalidRequest: If the request is invalid or asks for too much at once.
            NotFound: If the collection, or the record of a key, does not exist.
            PartitionUnavailable, DeadlineExceeded: If a partition does not answer and the options do not allow a
                partial answer; the text names the partitions.
        """
        plan = scoring.plan(options)
        examples.check(queries, options)
        if len(queries) * plan.candidates > MAX_BATCH_HITS:
            what = "candidates (k times the oversampling)" if plan.reranks else "hits"
            raise InvalidRequest(
                f"k: {plan.candidates:,} {what} for each of {len(queries):,} queries are over {MAX_BATCH_HITS:,}"
                " in all; ask for fewer at once"
            )
        paging.check(options, plan)
        grouped_search.check(options, plan)
        run = self._search if options.group_by is None else self._search_groups
        return await self._catalog.in_layout(
            collection,
            deadline,
            lambda layout: run(collection, layout, queries, fingerprint, options, plan, deadline),
        )

    async def _search(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        options: SearchOptions,
        plan: ScoringPlan,
        deadline: float,
    ) -> Answer:
        started = time.perf_counter()
        scoring.check(plan, layout.indexing, len(queries))
        asked = await self._encode(collection, layout, queries, fingerprint, options, plan, deadline)
        encoded = time.perf_counter()
        # One hit more shows whether there are more. The records of the queries' keys are left out, so they request
        # another one for each.
        own = [query.keys for query in queries]
        spare = 1 + max(map(len, own))
        group = ScanGroup(
            collection, layout.space.fingerprint, asked.codes, plan.candidates + spare, options.max_distance,
            options.condition, options.include_attributes, layout.indexing.features_text, asked.scoring,
            asked.inputs, after=asked.after, exclude_keys=tuple(options.exclude_keys),
        )  # fmt: skip
        answers = await self._settled(group, options.consistency, deadline)
        searched = time.perf_counter()
        coverage = answers.coverage
        warnings = asked.warnings
        if coverage.complete:
            # Only then: a partition that did not answer may know the fields.
            warnings = [*warnings, *warnings_of([part for part in answers.parts if isinstance(part, ScanResult)])]
        else:
            self._require_acceptable(collection, answers, options.allow_partial)
        found = _without_own(answers.hits, own)
        candidates = found.head(plan.candidates)
        # A rerank is exact if no record was left out of the candidates.
        is_exact = coverage.complete and (not plan.reranks or len(found) == len(candidates))
        hits = _reranked(candidates, options.offset + options.k) if plan.reranks else candidates
        more = (found.counts > hits.counts).tolist()
        if options.offset:
            hits = hits.take(hits.positions >= options.offset)
        _check_size(hits)
        cursor = ""
        # A page that continues an incomplete one would hide a gap.
        if len(queries) == 1 and more[0] and coverage.complete and not plan.reranks and len(hits):
            cursor = paging.cursor(collection, queries[0], options, layout.space, asked.codes, asked.inputs, hits)
        # After the cursor, which contains a rank as the shards compute it.
        hits = hits if asked.combined is None else asked.combined.scored(hits)
        shown = await self._thumbnails(collection, hits, options, deadline)
        done = time.perf_counter()
        timings = _timings(started, encoded, searched, done)
        later(self._count, collection, len(queries), coverage, timings)
        return Answer(
            hits, bool(is_exact), layout.space.bits, coverage, timings, shown, warnings, more, cursor
        )  # fmt: skip

    async def _encode(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        options: SearchOptions,
        plan: ScoringPlan,
        deadline: float,
    ) -> _Asked:
        parts = [part for query in queries for part in query.parts]
        warnings: Sequence[str] = ()
        after: Place | None = None
        if options.after:
            codes, inputs, after = paging.resume(collection, queries[0], options, layout.space, plan)
        else:
            codes, inputs, warnings = await self._encoder.encode(
                collection, layout, parts, fingerprint, plan, options.consistency, deadline
            )
        if len(parts) == len(queries):
            return _Asked(codes, inputs, plan.scoring, after, warnings)
        combined = examples.combine(queries, codes, inputs)
        return _Asked(combined.codes, combined.weights, Scoring.ASYMMETRIC, after, warnings, combined)

    async def _search_groups(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        options: SearchOptions,
        plan: ScoringPlan,
        deadline: float,
    ) -> Answer:
        started = time.perf_counter()
        (query,) = queries
        codes, _, warnings = await self._encoder.encode(
            collection, layout, queries, fingerprint, plan, options.consistency, deadline
        )
        encoded = time.perf_counter()
        assert options.group_by is not None, "the caller checks it"
        near = Near(
            options.group_by, layout.space.fingerprint, codes.tobytes(), options.max_distance,
            (*options.exclude_keys, *query.keys),
        )  # fmt: skip
        found = await grouped_search.search(self._selector, collection, near, options, deadline)
        _check_size(found.hits)
        shown = await self._thumbnails(collection, found.hits, options, deadline)
        done = time.perf_counter()
        timings = _timings(started, encoded, done, done)
        later(self._count, collection, 1, found.coverage, timings)
        return Answer(
            found.hits, found.coverage.complete, layout.space.bits, found.coverage, timings, shown,
            [*warnings, *found.warnings], [found.more], groups=found.values,
        )  # fmt: skip

    async def _thumbnails(
        self, collection: str, hits: HitTable, options: SearchOptions, deadline: float
    ) -> Mapping[str, bytes]:
        """The thumbnails of the hits, by key, if the options request them."""
        if not options.include_thumbnails:
            return {}
        return await thumbnails.read(self._reader, collection, hits, options.consistency, deadline)

    async def _settled(self, group: ScanGroup, consistency: str, deadline: float) -> Answers:
        """Returns the merged answers of all partitions."""
        fan_out = self._fan_outs[consistency]
        return await settled(
            self._cluster, self._catalog, group.collection, deadline, lambda until: fan_out.ask(group, until)
        )

    def _require_acceptable(self, collection: str, answers: Answers, allow_partial: bool) -> None:
        """Raises if the answer, which is incomplete, must not be returned."""
        missing = [error for error in answers.parts if isinstance(error, LookalikeError)]
        with self._counted_if_refused(collection, answers.coverage):
            require_acceptable(missing, allow_partial, answers.coverage)

    def _count(self, collection: str, queries: int, coverage: Coverage, timings: Timings) -> None:
        label = self._catalog.label(collection)
        _query_counter(label).inc(queries)
        _answer_counter(label, "complete" if coverage.complete else "incomplete").inc()
        for partition in coverage.missing:
            metrics.MISSING.labels(str(partition)).inc()
        metrics.FAN_OUT_SECONDS.observe(timings.search_ms / 1000)
        metrics.TOTAL_SECONDS.observe(timings.total_ms / 1000)

    @contextlib.contextmanager
    def _counted_if_refused(self, collection: str, coverage: Coverage) -> Iterator[None]:
        """Counts the answer as refused if the block raises because partitions are missing."""
        try:
            yield
        except (PartitionUnavailable, DeadlineExceeded):
            metrics.ANSWERS.labels(self._catalog.label(collection), "refused").inc()
            for partition in coverage.missing:
                metrics.MISSING.labels(str(partition)).inc()
            raise


# Cached, because looking up a metric's labels costs as much as updating the metric.
@functools.cache
def _query_counter(label: str) -> Counter:
    return metrics.QUERIES.labels(label)


@functools.cache
def _answer_counter(label: str, coverage: str) -> Counter:
    return metrics.ANSWERS.labels(label, coverage)


def _timings(started: float, encoded: float, searched: float, done: float) -> Timings:
    stages = ((started, encoded), (encoded, searched), (searched, done), (started, done))
    return Timings(*((end - start) * 1000 for start, end in stages))


def _without_own(hits: HitTable, own: Sequence[frozenset[str]]) -> HitTable:
    """Returns the hits, without the records whose keys are in the query. own: the keys in each query."""
    if not any(own):
        return hits
    rows = zip(hits.keys.tolist(), hits.query_of.tolist(), strict=True)
    return hits.take(np.array([key not in own[query] for key, query in rows], np.bool_))


def _reranked(candidates: HitTable, k: int) -> HitTable:
    began = time.perf_counter()
    hits = candidates.sort(by_rank=True).head(k)
    metrics.STAGE_SECONDS.labels("rerank").observe(time.perf_counter() - began)
    return hits


def _check_size(hits: HitTable) -> None:
    """Raises InvalidRequest if keys and attributes are too large for a message."""
    if not len(hits.attributes) and len(hits) < _FEW_KEYS:
        return
    if sum(map(len, hits.keys)) + sum(map(len, hits.attributes)) > MAX_MERGED_BYTES:
        raise answer_too_large(MAX_MERGED_BYTES)
