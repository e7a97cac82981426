"""Owns searches by groups: the k groups of records, by the values of an attribute, that have the nearest records.

It takes two reads. The first asks each partition for its k nearest groups: a group that is among the k nearest of
all partitions is among the k nearest of the partition that has its nearest record, because the groups before it
there are before it overall. The second asks each partition for the nearest records of these groups. A write
between the two may change which records they are, but a group is there at most once."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np

from coordinator.scoring import ScoringPlan
from coordinator.selector import Selector, unknown_fields
from lookalike.cluster.hits import HitTable, merge
from lookalike.cluster.scan import Scoring
from lookalike.cluster.select import GroupPlace, GroupsOf, MembersOf, Near, Question
from lookalike.model.errors import InvalidRequest
from lookalike.model.matching import Comparable
from lookalike.model.records import Coverage
from lookalike.model.search_options import SearchOptions


@dataclasses.dataclass(frozen=True, slots=True)
class FoundGroups:
    """The nearest groups.

    Attributes:
        values: The values of the groups, in order.
        hits: The hits of each group, as if the groups were queries.
        more: Whether there are groups that k left out.
        coverage: How much of the collection was read.
        warnings: What may make the answer less useful than it seems, as sentences.
    """

    values: Sequence[Comparable]
    hits: HitTable
    more: bool
    coverage: Coverage
    warnings: Sequence[str]


def check(options: SearchOptions, plan: ScoringPlan) -> None:
    """Raises InvalidRequest if a search by groups cannot have these options."""
    if options.group_by is None:
        return
    if plan.scoring is not Scoring.HAMMING:
        raise InvalidRequest("group_by: needs score hamming and no rerank; leave those out")
    if options.consistency != "one":
        raise InvalidRequest("group_by: reads one replica of each partition; use consistency one")
    if options.after or options.offset:
        raise InvalidRequest("group_by: cannot be combined with after and offset; raise k to get more groups")


async def search(
    selector: Selector, collection: str, near: Near, options: SearchOptions, deadline: float
) -> FoundGroups:
    """Returns the k nearest groups, each with its `group_size` nearest records.

    Raises:
        NotFound: If the collection does not exist.
        PartitionUnavailable, DeadlineExceeded: If a partition does not answer and the options do not allow a
            partial answer.
    """

    def ask(kind: GroupsOf | MembersOf) -> Question:
        return Question(collection, options.condition, kind)

    now = asyncio.get_running_loop().time()
    # A partition that does not answer must leave time for the second read.
    until = now + (deadline - now) / 2 if options.allow_partial else deadline
    parts, coverage = await selector.answers(ask(GroupsOf(near, options.k + 1)), options.allow_partial, until)
    warnings = unknown_fields(parts, coverage)
    nearest = nearest_groups([group for part in parts for group in part.groups])
    values = [group.value for group in nearest[: options.k]]
    if not values:
        return FoundGroups([], HitTable(0), False, coverage, warnings)
    wanted = MembersOf(near, tuple(values), options.group_size, options.include_attributes)
    parts, second = await selector.answers(ask(wanted), options.allow_partial, deadline)
    merged = merge([part.hits for part in parts if part.hits is not None], len(values), options.group_size)
    found, hits = in_order(values, merged)
    least = min(coverage, second, key=lambda one: one.answered)
    return FoundGroups(found, hits, len(nearest) > options.k, least, warnings)


def nearest_groups(places: Sequence[GroupPlace]) -> list[GroupPlace]:
    """Returns the places of the groups of all partitions in order, for each group only the first."""
    first: dict[Comparable, GroupPlace] = {}
    for place in sorted(places, key=lambda place: place.order):
        first.setdefault(place.value, place)
    return list(first.values())


def in_order(values: Sequence[Comparable], hits: HitTable) -> tuple[list[Comparable], HitTable]:
    """The groups that have hits, ordered by their first hits, which a write between the two reads may have
    changed."""
    firsts = hits.take(hits.positions == 0)
    places = sorted(
        (GroupPlace(values[group], distance, identifier).order, group)
        for group, distance, identifier in zip(
            firsts.query_of.tolist(), firsts.distances.tolist(), firsts.ids.tolist(), strict=True
        )
    )
    order = [group for _, group in places]
    rank = np.zeros(len(values), np.int64)
    rank[order] = np.arange(len(order))
    ranked = dataclasses.replace(hits, queries=len(order), query_of=rank[hits.query_of])
    return [values[group] for group in order], ranked.sort()
