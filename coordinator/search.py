"""Owns a search from request to answer: encoding, fan-out, coverage and the final order."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from coordinator import examples, quorum_scan, scoring, thumbnails
from coordinator.catalog import Catalog, Layout
from coordinator.cluster import Cluster
from coordinator.coverage import CoverageTracker, require_acceptable
from coordinator.fan_out import Answers, FanOut, ScanAnswer
from coordinator.query_encoder import QueryEncoder
from coordinator.reader import Reader
from coordinator.routing import Share
from coordinator.scoring import ScoringPlan
from coordinator.settling import settled
from lookalike.cluster.hits import HitTable
from lookalike.cluster.scan import ScanGroup, ScanResult, Scoring
from lookalike.cluster.unknown_fields import warnings_of
from lookalike.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    PartitionUnavailable,
)
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

# So many keys fit into a message even if each has the maximum length.
_FEW_KEYS = MAX_MERGED_BYTES // MAX_KEY_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a search.

    Attributes:
        hits: The hits of all queries.
        is_exact: True if no matching record that is left out can be nearer than the hits.
        bits: The width of the codes.
        coverage: Which partitions were searched.
        timings: How long each stage took.
        thumbnails: Those of the hits, by key, if requested.
        warnings: What may make the answer less useful than it seems, as sentences.
    """

    hits: HitTable
    is_exact: bool
    bits: int
    coverage: Coverage
    timings: Timings
    thumbnails: Mapping[str, bytes]
    warnings: Sequence[str] = ()


class Searcher:
    """Answers searches, from one replica of each partition or from a majority."""

    def __init__(self, cluster: Cluster, catalog: Catalog, encoder: QueryEncoder, reader: Reader) -> None:
        self._cluster = cluster
        self._catalog = catalog
        self._encoder = encoder
        self._reader = reader
        self._fan_outs = {"one": FanOut(cluster, self._scan_one), "quorum": FanOut(cluster, self._scan_majority)}
        self._coverage = CoverageTracker()

    @property
    def waiting(self) -> int:
        """Searches that wait to be sent to the shards."""
        return sum(fan_out.waiting for fan_out in self._fan_outs.values())

    async def close(self) -> None:
        for fan_out in self._fan_outs.values():
            await fan_out.close()

    async def _scan_one(self, share: Share, groups: Sequence[ScanGroup], deadline: float) -> list[ScanAnswer]:
        return await self._cluster.group(share.partition).scan(groups, share.data, deadline)

    async def _scan_majority(self, share: Share, groups: Sequence[ScanGroup], deadline: float) -> list[ScanAnswer]:
        return await quorum_scan.scan(self._cluster.group(share.partition), groups, share.data, deadline)

    async def search(
        self, collection: str, queries: Sequence[Query], fingerprint: str, options: SearchOptions, deadline: float
    ) -> Answer:
        """Returns the exact answer to each query.

        Args:
            collection: The collection's name.
            queries: What to search for.
            fingerprint: The code space of the queries that are codes.
            options: How to search.
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
        return await self._catalog.in_layout(
            collection,
            deadline,
            lambda layout: self._search(collection, layout, queries, fingerprint, options, plan, deadline),
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
        parts = [part for query in queries for part in query.parts]
        codes, inputs, warnings = await self._encoder.encode(
            collection, layout, parts, fingerprint, plan, options.consistency, deadline
        )
        encoded = time.perf_counter()
        kind, combined = plan.scoring, None
        if len(parts) > len(queries):
            combined = examples.combine(queries, codes)
            kind, codes, inputs = Scoring.ASYMMETRIC, combined.codes, combined.weights
        # A search by key leaves out the record with that key, so it requests one hit more for each.
        own = [query.keys for query in queries]
        group = ScanGroup(
            collection, layout.space.fingerprint, codes, plan.candidates + max(map(len, own)),
            options.max_distance, options.condition, options.include_attributes, layout.indexing.features_text,
            kind, inputs,
        )  # fmt: skip
        answers = await self._settled(group, options.consistency, deadline)
        searched = time.perf_counter()
        coverage = self._checked_coverage(collection, answers, options.allow_partial)
        warnings = [*warnings, *_unknown_fields(answers)]
        candidates = _without_own(answers.hits, own).head(plan.candidates)
        # A rerank is exact if no record was left out of the candidates.
        is_exact = coverage.complete and (not plan.reranks or candidates.counts.max() < plan.candidates)
        hits = _reranked(candidates, options.k) if plan.reranks else candidates
        hits = hits if combined is None else combined.scored(hits)
        _check_size(hits)
        shown: Mapping[str, bytes] = {}
        if options.include_thumbnails:
            shown = await thumbnails.read(self._reader, collection, hits, options.consistency, deadline)
        done = time.perf_counter()
        stages = ((started, encoded), (encoded, searched), (searched, done), (started, done))
        timings = Timings(*((end - start) * 1000 for start, end in stages))
        self._count(collection, len(queries), coverage, timings)
        return Answer(hits, bool(is_exact), layout.space.bits, coverage, timings, shown, warnings)

    async def _settled(self, group: ScanGroup, consistency: str, deadline: float) -> Answers:
        """Returns the merged answers of all partitions."""
        fan_out = self._fan_outs[consistency]
        return await settled(
            self._cluster, self._catalog, group.collection, deadline, lambda until: fan_out.ask(group, until)
        )

    def _checked_coverage(self, collection: str, answers: Answers, allow_partial: bool) -> Coverage:
        """The answers' coverage. Raises if the answer must not be returned."""
        coverage = self._coverage.coverage(collection, answers)
        if missing := [error for error in answers.parts if isinstance(error, LookalikeError)]:
            with self._counted_if_refused(collection, coverage):
                require_acceptable(missing, allow_partial, coverage)
        return coverage

    def _count(self, collection: str, queries: int, coverage: Coverage, timings: Timings) -> None:
        label = self._catalog.label(collection)
        metrics.QUERIES.labels(label).inc(queries)
        metrics.ANSWERS.labels(label, "complete" if coverage.complete else "incomplete").inc()
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


def _unknown_fields(answers: Answers) -> list[str]:
    """The warnings of fields that no record has. None unless all partitions answered: another may know them."""
    parts = [part for part in answers.parts if isinstance(part, ScanResult)]
    return warnings_of(parts) if len(parts) == len(answers.parts) else []


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
