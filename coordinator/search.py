"""Owns a search from request to answer: queries to codes, fan-out, coverage, merge."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Sequence

import numpy as np

from coordinator.catalog import Catalog
from coordinator.encoder_link import EncoderLink, check_image
from coordinator.fan_out import FanOut, Part
from coordinator.merge import QueryHits
from coordinator.placement import Placement
from coordinator.shard_link import ShardLink
from lookalike.codespace import CodeSpace
from lookalike.errors import (
    CodeSpaceMismatch,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.filters import Filter
from lookalike.records import (
    MAX_ANSWER_BYTES,
    MAX_BATCH_HITS,
    Coverage,
    Timings,
    VersionedRecord,
    check_code,
    check_k,
    check_key,
)
from lookalike.scan import ScanGroup, ScanHits

# A partial answer, or the name of the partition that was silent, must be back before the client's own deadline
# ends the call.
_RESERVED_SHARE = 0.1
_RESERVED_MAX_SECONDS = 0.25
# How long a collection may be on some partitions only, being made or dropped, before a search says so.
_SETTLE_SECONDS = 1.0
_SETTLE_PAUSE_SECONDS = 0.02


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What to search for: exactly one of the three is set."""

    image: bytes | None = None
    code: bytes | None = None
    key: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    k: int
    max_distance: int | None = None
    filter: Filter | None = None
    include_attributes: bool = False
    allow_partial: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """results[q]: the hits of query q, of codes that are `bits` wide."""

    results: list[QueryHits]
    bits: int
    coverage: Coverage
    timings: Timings


class Searcher:
    """Answers searches and reads by key from one replica of each partition."""

    def __init__(
        self, links: Sequence[ShardLink], placement: Placement, catalog: Catalog, encoder: EncoderLink
    ) -> None:
        self._links = links
        self._fan_out = FanOut(links)
        self._placement = placement
        self._catalog = catalog
        self._encoder = encoder
        self._rows_known: dict[tuple[str, int], int] = {}

    async def close(self) -> None:
        await self._fan_out.close()

    async def search(
        self, collection: str, queries: Sequence[Query], fingerprint: str, options: Options, deadline: float
    ) -> Answer:
        """The exact answer to each query. Raises PartitionUnavailable or DeadlineExceeded, naming the
        partitions, when one does not answer and the options do not allow that."""
        check_k(options.k)
        if len(queries) * options.k > MAX_BATCH_HITS:
            raise InvalidRequest(
                f"k: {options.k:,} hits for each of {len(queries):,} queries are over {MAX_BATCH_HITS:,} in all;"
                " ask for fewer at once"
            )
        return await self._catalog.in_space(
            collection,
            deadline,
            lambda space: self._search(collection, space, queries, fingerprint, options, deadline),
        )

    async def fetch(self, collection: str, keys: Sequence[str], deadline: float) -> list[VersionedRecord]:
        """The live records among `keys`, in their order. Never partial."""
        for key in keys:
            check_key(key)
        return await self._catalog.in_space(
            collection, deadline, lambda space: self._fetch(collection, keys, deadline)
        )

    async def _fetch(self, collection: str, keys: Sequence[str], deadline: float) -> list[VersionedRecord]:
        parts = self._placement.split(keys)
        answers = await asyncio.gather(
            *(
                self._links[partition].fetch(collection, [keys[i] for i in indices], deadline)
                for partition, indices in parts.items()
            )
        )
        found = {record.key: record for answer in answers for record in answer}
        if sum(len(record.attributes) for record in found.values()) > MAX_ANSWER_BYTES:
            raise InvalidRequest(f"keys: the records take over {MAX_ANSWER_BYTES:,} bytes; ask for fewer at once")
        return [found[key] for key in keys if key in found]

    async def _search(
        self,
        collection: str,
        space: CodeSpace,
        queries: Sequence[Query],
        fingerprint: str,
        options: Options,
        deadline: float,
    ) -> Answer:
        started = time.perf_counter()
        codes = await self._codes(collection, space, queries, fingerprint, deadline)
        encoded = time.perf_counter()
        # A record is not its own lookalike: ask for one more where it will be left out.
        spare = any(query.key is not None for query in queries)
        group = ScanGroup(
            collection, space.fingerprint, codes, options.k + spare, options.max_distance, options.filter,
            options.include_attributes,
        )  # fmt: skip
        parts, merged = await self._settled(group, deadline)
        searched = time.perf_counter()
        coverage = self._coverage(collection, parts)
        if missing := [error for error in parts if isinstance(error, LookalikeError)]:
            _refuse(missing, options.allow_partial, coverage)
        else:
            _require_known_fields([part for part in parts if isinstance(part, ScanHits)])
        results = [hits.first(options.k, query.key) for query, hits in zip(queries, merged, strict=True)]
        done = time.perf_counter()
        timings = Timings(
            *(
                (b - a) * 1000
                for a, b in ((started, encoded), (encoded, searched), (searched, done), (started, done))
            )
        )
        return Answer(results, space.bits, coverage, timings)

    async def _codes(
        self, collection: str, space: CodeSpace, queries: Sequence[Query], fingerprint: str, deadline: float
    ) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
        """Every query as a code: uint8 (n, bits/8)."""
        images = [check_image(query.image) for query in queries if query.image is not None]
        keys = [check_key(query.key) for query in queries if query.key is not None]
        if any(query.code is not None for query in queries):
            space.require(fingerprint, "the query")
        encoded = iter(await self._encoder.encode(images, space, deadline) if images else [])
        stored = {record.key: record for record in (await self._fetch(collection, keys, deadline) if keys else [])}
        codes = []
        for query in queries:
            if query.code is not None:
                codes.append(check_code(query.code, space, "the query"))
            elif query.key is not None:
                if query.key not in stored:
                    raise NotFound(f"key: {query.key!r} is not in collection {collection!r}")
                codes.append(stored[query.key].code or b"")
            else:
                code = next(encoded)
                if isinstance(code, InvalidRequest):
                    raise code
                codes.append(code)
        return np.frombuffer(b"".join(codes), np.uint8).reshape(len(codes), space.code_bytes)

    async def _settled(self, group: ScanGroup, deadline: float) -> tuple[list[Part], list[QueryHits]]:
        """Every partition's answer, and all merged. While only some have the collection it is being made or
        dropped: asks again, and raises NotFound once it is gone."""
        clock = asyncio.get_running_loop()
        remaining = deadline - clock.time()
        deadline -= min(_RESERVED_MAX_SECONDS, remaining * _RESERVED_SHARE)
        until = min(deadline, clock.time() + _SETTLE_SECONDS)
        while True:
            parts, hits = await self._fan_out.ask(group, deadline)
            absent = sum(isinstance(part, NotFound) for part in parts)
            if not absent or absent == len(parts) or clock.time() >= until:
                return parts, hits
            await self._catalog.get(group.collection, deadline)
            await asyncio.sleep(_SETTLE_PAUSE_SECONDS)

    def _coverage(self, collection: str, parts: Sequence[Part]) -> Coverage:
        missing: dict[int, str] = {}
        searched = 0
        for partition, part in enumerate(parts):
            if isinstance(part, ScanHits):
                self._rows_known[collection, partition] = part.rows
                searched += part.rows
            else:
                missing[partition] = part.message
        known = searched + sum(self._rows_known.get((collection, partition), 0) for partition in missing)
        return Coverage(len(parts), len(parts) - len(missing), searched, known, missing)


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
