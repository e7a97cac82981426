"""Owns a search from request to answer: queries to codes, fan-out, coverage, final order."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from coordinator import quorum_scan, scoring
from coordinator.catalog import Catalog, Layout, NotInLayout
from coordinator.cluster import Cluster
from coordinator.encoder_link import EncodedImage, EncoderLink
from coordinator.fan_out import Answers, FanOut, Part
from coordinator.merge import QueryHits
from coordinator.routing import Share
from coordinator.scoring import Plan
from coordinator.shard_link import ShardLink
from lookalike.cluster.scan import ScanGroup, ScanHits
from lookalike.model import features as stored_features
from lookalike.model.errors import (
    CodeSpaceMismatch,
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
    SlotMoved,
)
from lookalike.model.records import (
    MAX_ANSWER_BYTES,
    MAX_BATCH_HITS,
    MAX_KEY_BYTES,
    MAX_MERGED_BYTES,
    Coverage,
    Timings,
    VersionedRecord,
    answer_too_large,
    check_code,
    check_key,
)
from lookalike.model.search_options import SearchOptions
from lookalike.server.observe import metrics
from lookalike.transport import tracing

# A partial answer, or the name of the partition that was silent, must be back before the client's own deadline
# ends the call.
_RESERVED_SHARE = 0.1
_RESERVED_MAX_SECONDS = 0.25
# How long a collection may be on some partitions only, being made or dropped, before a search says so; and how
# long it may take until it is clear who serves slots that have moved.
_SETTLE_SECONDS = 1.0
_MOVE_SECONDS = 5.0
_SETTLE_PAUSE_SECONDS = 0.02
# So many keys fit into any message, however long they are.
_FEW_KEYS = MAX_MERGED_BYTES // MAX_KEY_BYTES


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What to search for: exactly one of image, code and key is set. projections and features: float32
    little-endian, with a code; empty where there are none."""

    image: bytes | None = None
    code: bytes | None = None
    key: str | None = None
    projections: bytes = b""
    features: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """results[q]: the hits of query q, of codes that are `bits` wide; is_exact[q]: whether none can be nearer."""

    results: list[QueryHits]
    is_exact: list[bool]
    bits: int
    coverage: Coverage
    timings: Timings


@dataclasses.dataclass(frozen=True, slots=True)
class _Encoded:
    """A query as the shards take it."""

    code: bytes
    projections: npt.NDArray[np.float32] | None
    features: npt.NDArray[np.float32] | None


class Searcher:
    """Answers searches and reads by key, from one replica of each partition or from a majority."""

    def __init__(self, cluster: Cluster, catalog: Catalog, encoder: EncoderLink) -> None:
        self._cluster = cluster
        self._fan_outs = {"one": FanOut(cluster, self._scan_one), "quorum": FanOut(cluster, self._scan_majority)}
        self._catalog = catalog
        self._encoder = encoder
        self._rows_known: dict[tuple[str, int], int] = {}

    @property
    def waiting(self) -> int:
        """Searches that wait to be sent to the shards."""
        return sum(fan_out.waiting for fan_out in self._fan_outs.values())

    async def close(self) -> None:
        for fan_out in self._fan_outs.values():
            await fan_out.close()

    async def _scan_one(self, share: Share, groups: Sequence[ScanGroup], deadline: float) -> list[Part]:
        return await self._cluster.group(share.partition).scan(groups, share.data, deadline)

    async def _scan_majority(self, share: Share, groups: Sequence[ScanGroup], deadline: float) -> list[Part]:
        return await quorum_scan.scan(self._cluster.group(share.partition), groups, share.data, deadline)

    async def search(
        self, collection: str, queries: Sequence[Query], fingerprint: str, options: SearchOptions, deadline: float
    ) -> Answer:
        """The exact answer to each query. Raises PartitionUnavailable or DeadlineExceeded, naming the
        partitions, when one does not answer and the options do not allow that."""
        plan = scoring.plan(options.score, options.rerank, options.k, options.oversampling)
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

    async def fetch(
        self,
        collection: str,
        keys: Sequence[str],
        consistency: str,
        deadline: float,
        include_thumbnails: bool = False,
    ) -> list[VersionedRecord]:
        """The live records among `keys`, in their order. Never partial."""
        for key in keys:
            check_key(key)
        return await self._catalog.in_layout(
            collection,
            deadline,
            lambda layout: self._fetch(
                collection, keys, consistency, deadline, include_thumbnails=include_thumbnails
            ),
        )

    async def _fetch(
        self,
        collection: str,
        keys: Sequence[str],
        consistency: str,
        deadline: float,
        features: str = "",
        include_thumbnails: bool = False,
    ) -> list[VersionedRecord]:
        loop = asyncio.get_running_loop()
        until = min(deadline, loop.time() + _MOVE_SECONDS)
        while True:
            parts = self._cluster.routing.split(keys)
            try:
                answers = await asyncio.gather(
                    *(
                        self._fetch_part(
                            partition, collection, [keys[i] for i in indices], consistency, deadline, features,
                            include_thumbnails,
                        )
                        for partition, indices in parts.items()
                    )
                )  # fmt: skip
                break
            except SlotMoved:
                if loop.time() >= until:
                    raise
            await asyncio.sleep(_SETTLE_PAUSE_SECONDS)
            await self._cluster.refresh()
        found = {record.key: record for answer in answers for record in answer if record.code is not None}
        if sum(len(record.attributes) + len(record.thumbnail) for record in found.values()) > MAX_ANSWER_BYTES:
            raise InvalidRequest(f"keys: the records take over {MAX_ANSWER_BYTES:,} bytes; ask for fewer at once")
        return [found[key] for key in keys if key in found]

    async def _fetch_part(
        self,
        partition: int,
        collection: str,
        keys: Sequence[str],
        consistency: str,
        deadline: float,
        features: str,
        include_thumbnails: bool,
    ) -> list[VersionedRecord]:
        """From one replica; or of what a majority has, tombstones included, the newest."""
        group = self._cluster.group(partition)
        count = group.majority if consistency == "quorum" else 1

        async def fetch(link: ShardLink) -> list[VersionedRecord]:
            return await link.fetch(collection, keys, deadline, features, count > 1, include_thumbnails)

        newest: dict[str, VersionedRecord] = {}
        for _, records in await group.some(fetch, count, deadline):
            for record in records:
                if record.key not in newest or newest[record.key].version < record.version:
                    newest[record.key] = record
        return list(newest.values())

    async def _search(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        options: SearchOptions,
        plan: Plan,
        deadline: float,
    ) -> Answer:
        started = time.perf_counter()
        scoring.check(plan, layout.indexing, len(queries))
        space = layout.space
        asked = await self._encode(collection, layout, queries, fingerprint, plan, options.consistency, deadline)
        codes = np.frombuffer(b"".join(query.code for query in asked), np.uint8).reshape(-1, space.code_bytes)
        inputs = scoring.inputs(
            plan, codes, [query.projections for query in asked], [query.features for query in asked]
        )
        encoded = time.perf_counter()
        # A record is not its own lookalike: ask for one more where it will be left out.
        spare = any(query.key is not None for query in queries)
        group = ScanGroup(
            collection, space.fingerprint, codes, plan.candidates + spare, options.max_distance, options.condition,
            options.include_attributes, layout.indexing.features_text, plan.scoring, inputs,
        )  # fmt: skip
        answers = await self._settled(group, options.consistency, deadline)
        parts, merged = answers.parts, answers.hits
        searched = time.perf_counter()
        coverage = self._coverage(collection, answers)
        if missing := [error for error in parts if isinstance(error, LookalikeError)]:
            with self._counted_if_refused(collection, coverage):
                _refuse(missing, options.allow_partial, coverage)
        else:
            _require_known_fields([part for part in parts if isinstance(part, ScanHits)])
        candidates = [hits.first(plan.candidates, query.key) for query, hits in zip(queries, merged, strict=True)]
        # A rerank is exact where no record was left out of the candidates.
        is_exact = [
            coverage.complete and (not plan.reranks or len(hits.keys) < plan.candidates) for hits in candidates
        ]
        results = candidates
        if plan.reranks:
            began = time.perf_counter()
            results = [scoring.reordered(hits).first(options.k, None) for hits in candidates]
            metrics.STAGE_SECONDS.labels("rerank").observe(time.perf_counter() - began)
        _require_bearable(results)
        done = time.perf_counter()
        timings = Timings(
            *(
                (b - a) * 1000
                for a, b in ((started, encoded), (encoded, searched), (searched, done), (started, done))
            )
        )
        self._count(collection, len(queries), coverage, timings)
        return Answer(results, is_exact, space.bits, coverage, timings)

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
        """The block raises if an answer with this coverage is not given."""
        try:
            yield
        except (PartitionUnavailable, DeadlineExceeded):
            metrics.ANSWERS.labels(self._catalog.label(collection), "refused").inc()
            for partition in coverage.missing:
                metrics.MISSING.labels(str(partition)).inc()
            raise

    async def _encode(
        self,
        collection: str,
        layout: Layout,
        queries: Sequence[Query],
        fingerprint: str,
        plan: Plan,
        consistency: str,
        deadline: float,
    ) -> list[_Encoded]:
        """Every query as a code, and what the plan needs beside that where it can be had."""
        space, indexing = layout.space, layout.indexing
        images = [self._encoder.check_image(query.image) for query in queries if query.image is not None]
        keys = [check_key(query.key) for query in queries if query.key is not None]
        if any(query.code is not None for query in queries):
            space.require(fingerprint, "the query")
        made: list[EncodedImage | InvalidRequest] = []
        if images:
            began = time.perf_counter()
            with tracing.span("encode", images=len(images)):
                made = await self._encoder.encode(
                    images, space, deadline,
                    feature_width=indexing.feature_width if plan.needs_features else 0,
                    include_projections=plan.needs_projections,
                )  # fmt: skip
            metrics.STAGE_SECONDS.labels("encode").observe(time.perf_counter() - began)
        encoded = iter(made)
        wanted = indexing.features_text if plan.needs_features else ""
        unique = list(dict.fromkeys(keys))
        found = await self._fetch(collection, unique, consistency, deadline, wanted) if keys else []
        stored = {record.key: record for record in found}
        asked = []
        for query in queries:
            if query.code is not None:
                code = check_code(query.code, space, "the query")
                asked.append(_Encoded(code, *_brought(query, space.bits, indexing.feature_width, plan)))
            elif query.key is not None:
                if query.key not in stored:
                    raise NotFound(f"key: {query.key!r} is not in collection {collection!r}")
                record = stored[query.key]
                kept = stored_features.unpack(indexing.features, [record.features])[0] if record.features else None
                asked.append(_Encoded(record.code or b"", None, kept))
            else:
                image = next(encoded)
                if isinstance(image, InvalidRequest):
                    raise image
                asked.append(_Encoded(image.code, image.projections, image.features))
        return asked

    async def _settled(self, group: ScanGroup, consistency: str, deadline: float) -> Answers:
        """Every partition's answer, and all merged. While only some have the collection it is being made or
        dropped: asks again, and raises NotFound once it is gone. Asks again, too, when slots have moved
        meanwhile."""
        clock = asyncio.get_running_loop()
        remaining = deadline - clock.time()
        deadline -= min(_RESERVED_MAX_SECONDS, remaining * _RESERVED_SHARE)
        began = clock.time()
        while True:
            answers = await self._fan_outs[consistency].ask(group, deadline)
            parts = answers.parts
            spent = clock.time() - began
            left = deadline - clock.time()
            if any(isinstance(part, SlotMoved) for part in parts) and spent < _MOVE_SECONDS and left > 0:
                await asyncio.sleep(min(left, _SETTLE_PAUSE_SECONDS) if spent else 0)
                await self._cluster.refresh()
                continue
            absent = sum(isinstance(part, NotFound) for part in parts)
            if not absent or absent == len(parts) or spent >= _SETTLE_SECONDS or left <= 0:
                return answers
            await self._catalog.get(group.collection, deadline)
            await asyncio.sleep(_SETTLE_PAUSE_SECONDS)

    def _coverage(self, collection: str, answers: Answers) -> Coverage:
        """Partitions are those that have a share of the slots; one answered if it did for all of its share."""
        missing: dict[int, str] = {}
        rows: dict[int, int] = {}
        stale_ms = 0
        for share, part in zip(answers.shares, answers.parts, strict=True):
            if isinstance(part, ScanHits):
                rows[share.partition] = rows.get(share.partition, 0) + part.rows
                stale_ms = max(stale_ms, part.stale_ms)
            else:
                missing[share.partition] = part.message
        for partition in rows.keys() - missing.keys():
            self._rows_known[collection, partition] = rows[partition]
        searched = sum(rows.values())
        known = searched + sum(
            max(0, self._rows_known.get((collection, partition), 0) - rows.get(partition, 0))
            for partition in missing
        )
        partitions = len({share.partition for share in answers.shares})
        return Coverage(partitions, partitions - len(missing), searched, known, missing, stale_ms)


def _require_bearable(results: Sequence[QueryHits]) -> None:
    """Raise InvalidRequest when keys and attributes are too large for a message."""
    if not any(hits.attributes for hits in results) and sum(len(hits.keys) for hits in results) < _FEW_KEYS:
        return
    size = sum(len(text) for hits in results for part in (hits.keys, hits.attributes) for text in part)
    if size > MAX_MERGED_BYTES:
        raise answer_too_large(MAX_MERGED_BYTES)


def _brought(
    query: Query, bits: int, width: int, plan: Plan
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Projections and features that came with a code, where the plan needs them."""
    projections = features = None
    if plan.needs_projections and query.projections:
        projections = stored_features.read("projections", query.projections, bits)
    if plan.needs_features and query.features:
        try:
            features = stored_features.read("features", query.features, width)
        except InvalidRequest as error:
            raise NotInLayout(error.message) from None
    return projections, features


def _refuse(missing: Sequence[LookalikeError], allow_partial: bool, coverage: Coverage) -> None:
    """Raise unless an incomplete answer is allowed and the reasons are the partitions' own."""
    for error in missing:
        if isinstance(error, InvalidRequest | CodeSpaceMismatch):
            raise error
    kinds = {type(error) for error in missing}
    if kinds == {NotFound} and not coverage.answered:
        raise missing[0]
    if coverage.answered and allow_partial:
        return
    kind = kinds.pop() if len(kinds) == 1 and NotFound not in kinds else PartitionUnavailable
    remedy = "" if allow_partial else "; repeat, or allow a partial answer"
    raise kind(f"{'; '.join(coverage.missing.values())}{remedy}", retry_after_ms=missing[0].retry_after_ms)


def _require_known_fields(parts: Sequence[ScanHits]) -> None:
    """A filter on a field that no record has ever had is a slip of the pen, not an empty answer."""
    if not any(part.rows for part in parts):
        return
    unknown = set.intersection(*(set(part.unknown_fields) for part in parts))
    if unknown:
        known = sorted({field for part in parts for field in part.known_fields})
        raise InvalidRequest(
            f"filter: no record has a field {', '.join(repr(field) for field in sorted(unknown))};"
            f" known fields: {', '.join(map(repr, known)) or 'none'}"
        )
