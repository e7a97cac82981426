"""Owns a scan answered by a majority of a partition's replicas, so that rows that are stale on one replica are
left out.

Each replica returns its best rows with their versions. A row that some replicas did not return is looked up on
those replicas by key: a higher version, or a tombstone, shows that the row is stale. A replica may have
further rows after the last one that it returned, so the joint result is complete only up to the nearest of these
last rows. If too few rows remain up to there, more are requested from the replicas."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.replicas import ReplicaGroup
from lookalike.cluster.hits import HitTable, concat
from lookalike.cluster.scan import MAX_SCAN_K, ScanGroup, ScanResult, Scoring
from lookalike.model.errors import LookalikeError, Overloaded
from lookalike.server.shard_client import ShardClient

# A hit's sort key: its distance or rank, its id and its key.
_Order = tuple[float, int, str]
_Answers = Sequence[tuple[ShardClient, ScanResult]]
_ROUNDS = 8


async def scan(
    group: ReplicaGroup, groups: Sequence[ScanGroup], slots: bytes, deadline: float
) -> list[ScanResult | LookalikeError]:
    """Returns a majority's answer to each group of queries, or the error."""
    results: list[ScanResult | LookalikeError] = []
    for queries in groups:
        try:
            results.append(await _scan(group, queries, slots, deadline))
        except LookalikeError as error:
            results.append(error)
    return results


async def _scan(group: ReplicaGroup, queries: ScanGroup, slots: bytes, deadline: float) -> ScanResult:
    asked = dataclasses.replace(queries, include_versions=True)
    for _ in range(_ROUNDS):

        async def ask(client: ShardClient, asked: ScanGroup = asked) -> ScanResult:
            (answer,) = await client.scan([asked], slots, deadline)
            if isinstance(answer, LookalikeError):
                raise answer
            return answer

        answers = await group.some(ask, group.majority, deadline)
        hits = await _agreed(answers, asked, queries.k, deadline)
        if hits is not None:
            rows = max(result.rows for _, result in answers)
            return dataclasses.replace(answers[0][1], hits=hits.head(queries.k), rows=rows, stale_ms=0)
        if asked.k >= MAX_SCAN_K:
            break
        asked = dataclasses.replace(asked, k=min(2 * asked.k + 8, MAX_SCAN_K))
    raise Overloaded(
        f"partition {group.partition}: its replicas differ in too many rows to be compared; retry in a moment",
        retry_after_ms=1_000,
    )


async def _agreed(answers: _Answers, asked: ScanGroup, k: int, deadline: float) -> HitTable | None:
    """Returns the rows that are current, at least the first k of each query; None if more must be requested."""
    first, *others = (result.hits for _, result in answers)
    if all(_is_same(first, other) for other in others):
        return first
    by_rank = asked.scoring is Scoring.ASYMMETRIC
    newest = await _newest_versions(answers, asked.collection, deadline)
    joined = concat([first, *others], len(asked.codes)).sort(by_rank)
    orders = _orders(joined, by_rank)
    queries, versions = joined.query_of.tolist(), joined.versions.tolist()
    limits = _limits([first, *others], asked.k, by_rank)
    rows: dict[tuple[int, _Order], int] = {}
    for row, (query, order, version) in enumerate(zip(queries, orders, versions, strict=True)):
        limit = limits[query]
        if version == newest[order[2]] and (limit is None or order <= limit):
            rows[query, order] = row
    current = joined.take(np.array(list(rows.values()), np.intp))
    for count, limit in zip(current.counts.tolist(), limits, strict=True):
        if count < k and limit is not None:
            return None
    return current


def _is_same(one: HitTable, other: HitTable) -> bool:
    return (
        np.array_equal(one.query_of, other.query_of)
        and np.array_equal(one.keys, other.keys)
        and np.array_equal(one.versions, other.versions)
    )


async def _newest_versions(answers: _Answers, collection: str, deadline: float) -> dict[str, int]:
    """Returns the highest version of each key on any of the replicas, tombstones included."""
    newest: dict[str, int] = {}
    everywhere = {key for _, result in answers for key in result.hits.keys.tolist()}
    for client, result in answers:
        shown = dict(zip(result.hits.keys.tolist(), result.hits.versions.tolist(), strict=True))
        others = await _versions(client, collection, everywhere - shown.keys(), deadline)
        for key, version in [*shown.items(), *others.items()]:
            newest[key] = max(version, newest.get(key, 0))
    return newest


async def _versions(client: ShardClient, collection: str, keys: set[str], deadline: float) -> Mapping[str, int]:
    if not keys:
        return {}
    records = await client.fetch(collection, sorted(keys), deadline, include_deleted=True)
    return {record.key: record.version for record in records}


def _limits(tables: Sequence[HitTable], k: int, by_rank: bool) -> list[_Order | None]:
    """Returns for each query the row up to which the joint result is complete: the first in order of the replicas'
    last rows. None if every replica returned all its rows."""
    limits: list[_Order | None] = [None] * tables[0].queries
    for table in tables:
        full = np.flatnonzero(table.counts >= k)
        lasts = _orders(table.take(table.offsets[full + 1] - 1), by_rank)
        for query, last in zip(full.tolist(), lasts, strict=True):
            limit = limits[query]
            limits[query] = last if limit is None else min(limit, last)
    return limits


def _orders(hits: HitTable, by_rank: bool) -> list[_Order]:
    values = hits.ranks if by_rank else hits.distances
    return list(zip(values.tolist(), hits.ids.tolist(), hits.keys.tolist(), strict=True))
