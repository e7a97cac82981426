"""Owns a search that a majority of each partition's replicas answers: what is stale on one of them is left out.

Each replica returns its best rows with their versions. A row that not all returned is looked up by key where it is
missing: whoever has a higher version, or a deletion, says that it is stale. What the replicas hold together is
known up to the least of their last rows; if too little is left up to there, they are asked for more."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from coordinator.replicas import ReplicaGroup
from coordinator.shard_link import ShardLink
from lookalike.cluster.scan import ScanGroup, ScanHits, Scoring
from lookalike.model.errors import Corruption, LookalikeError, Overloaded, SlotMoved
from lookalike.model.records import MAX_K

# Order, key, version, attributes, rank and distance of a hit.
_Order = tuple[float, int, str]
_ROUNDS = 8


@dataclasses.dataclass(frozen=True, slots=True)
class _Row:
    order: _Order
    distance: int
    version: int
    attributes: str
    rank: float


async def scan(
    group: ReplicaGroup, groups: Sequence[ScanGroup], slots: bytes, deadline: float
) -> list[ScanHits | LookalikeError]:
    """What a majority of the replicas answers to each group of queries, or why there is no answer."""
    results: list[ScanHits | LookalikeError] = []
    for queries in groups:
        try:
            results.append(await _scan(group, queries, slots, deadline))
        except LookalikeError as error:
            results.append(error)
    return results


async def _scan(group: ReplicaGroup, queries: ScanGroup, slots: bytes, deadline: float) -> ScanHits:
    asked = dataclasses.replace(queries, include_versions=True)
    for _ in range(_ROUNDS):

        async def ask(link: ShardLink, asked: ScanGroup = asked) -> ScanHits:
            (answer,) = await link.scan([asked], slots, deadline)
            if isinstance(answer, Corruption | SlotMoved):
                raise answer
            if isinstance(answer, LookalikeError):
                raise answer
            return answer

        answers = await group.some(ask, group.majority, deadline)
        if len(answers) == 1 or _are_alike([hits for _, hits in answers]):
            return _cut(answers[0][1], queries.k)
        merged = await _merged(answers, asked, queries.k, deadline)
        if merged is not None:
            return merged
        if asked.k > MAX_K:
            break
        asked = dataclasses.replace(asked, k=min(2 * asked.k + 8, MAX_K + 1))
    raise Overloaded(
        f"partition {group.partition}: its replicas differ in too much to be compared; repeat in a moment",
        retry_after_ms=1_000,
    )


def _are_alike(answers: Sequence[ScanHits]) -> bool:
    first = answers[0]
    return all(
        other.keys == first.keys and other.versions == first.versions and other.counts == first.counts
        for other in answers[1:]
    )


async def _merged(
    answers: Sequence[tuple[ShardLink, ScanHits]], asked: ScanGroup, k: int, deadline: float
) -> ScanHits | None:
    """The first k of what the replicas hold together, or None if they must be asked for more."""
    by_replica = [(link, _rows(hits, asked)) for link, hits in answers]
    newest: dict[str, int] = {}
    for link, queries in by_replica:
        shown = {row.order[2]: row.version for rows in queries for row in rows}
        others = {row.order[2] for _, lists in by_replica for rows in lists for row in rows} - shown.keys()
        for key, version in [*shown.items(), *(await _versions(link, asked.collection, others, deadline)).items()]:
            newest[key] = max(version, newest.get(key, 0))
    chosen: list[list[_Row]] = []
    for q in range(len(asked.codes)):
        lists = [queries[q] for _, queries in by_replica]
        known_up_to = min((rows[-1].order for rows in lists if len(rows) >= asked.k), default=None)
        current = {row.order: row for rows in lists for row in rows if row.version == newest[row.order[2]]}
        found = sorted(order for order in current if known_up_to is None or order <= known_up_to)
        if len(found) < k and known_up_to is not None:
            return None
        chosen.append([current[order] for order in found[:k]])
    return _hits(chosen, answers, asked)


async def _versions(link: ShardLink, collection: str, keys: set[str], deadline: float) -> Mapping[str, int]:
    if not keys:
        return {}
    records = await link.fetch(collection, sorted(keys), deadline, include_deleted=True)
    return {record.key: record.version for record in records}


def _rows(hits: ScanHits, asked: ScanGroup) -> list[list[_Row]]:
    """Each query's rows."""
    by_rank = asked.scoring is Scoring.ASYMMETRIC
    distances, ids, ranks = hits.distances.tolist(), hits.ids.tolist(), hits.ranks.tolist()
    queries = []
    start = 0
    for count in hits.counts:
        rows = []
        for i in range(start, start + count):
            order = (ranks[i] if by_rank else distances[i], ids[i], hits.keys[i])
            attributes = hits.attributes[i] if hits.attributes else ""
            rows.append(_Row(order, distances[i], hits.versions[i], attributes, ranks[i] if ranks else 0.0))
        queries.append(rows)
        start += count
    return queries


def _hits(
    chosen: Sequence[Sequence[_Row]], answers: Sequence[tuple[ShardLink, ScanHits]], asked: ScanGroup
) -> ScanHits:
    rows = [row for rows in chosen for row in rows]
    first = answers[0][1]
    is_ranked = asked.scoring is not Scoring.HAMMING
    return dataclasses.replace(
        first,
        counts=[len(rows) for rows in chosen],
        distances=np.array([row.distance for row in rows], np.uint16),
        ids=np.array([row.order[1] for row in rows], np.uint64),
        keys=[row.order[2] for row in rows],
        attributes=[row.attributes for row in rows] if asked.include_attributes else [],
        rows=max(hits.rows for _, hits in answers),
        ranks=np.array([row.rank for row in rows] if is_ranked else [], np.float64),
        versions=[],
        stale_ms=0,
    )


def _cut(hits: ScanHits, k: int) -> ScanHits:
    """Only the first k of each query, when more were asked for."""
    hits = dataclasses.replace(hits, stale_ms=0, versions=[])
    if max(hits.counts, default=0) <= k:
        return hits
    starts = np.cumsum([0, *hits.counts[:-1]])
    kept = [int(start) + i for start, count in zip(starts, hits.counts, strict=True) for i in range(min(count, k))]
    return dataclasses.replace(
        hits,
        counts=[min(count, k) for count in hits.counts],
        distances=hits.distances[kept],
        ids=hits.ids[kept],
        keys=[hits.keys[i] for i in kept],
        attributes=[hits.attributes[i] for i in kept] if hits.attributes else [],
        ranks=hits.ranks[kept] if len(hits.ranks) else hits.ranks,
    )
