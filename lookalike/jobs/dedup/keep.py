"""Owns which record of a group is kept, and which others are copies of it byte by byte."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Sequence

from lookalike.jobs.dedup.facts import FileFacts
from lookalike.jobs.dedup.groups import Group


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A record of a group.

    Attributes:
        key: The record's key.
        row: Its place in the snapshot.
        distance: From the first key of the group, in bits.
        width: Of the picture in pixels; 0 if it is unknown, as are `height` and `bytes`.
        height: Of the picture in pixels.
        bytes: The size of its file.
        is_kept: Whether the group keeps this record. One of a group is kept.
        is_exact: Whether it is another record whose file has the same bytes as the kept one's.
    """

    key: str
    row: int
    distance: int
    width: int
    height: int
    bytes: int
    is_kept: bool
    is_exact: bool


def members(group: Group, facts: FileFacts) -> list[Member]:
    """The records of a group, in its order. Keeps the one with the most pixels; of equals the one with the most
    bytes; then the oldest; then the first key."""
    kept = min(range(len(group.keys)), key=lambda place: _rank(group, facts, place))
    digest = facts.digest(group.rows[kept])
    return [
        Member(
            key=key,
            row=row,
            distance=distance,
            width=int(facts.widths[row]),
            height=int(facts.heights[row]),
            bytes=int(facts.sizes[row]),
            is_kept=place == kept,
            is_exact=place != kept and digest != b"" and facts.digest(row) == digest,
        )
        for place, (key, row, distance) in enumerate(zip(group.keys, group.rows, group.distances, strict=True))
    ]


def exact_groups(groups: Iterable[Group], facts: FileFacts) -> list[Group]:
    """Splits groups into groups of records whose files have the same bytes. Records without such a copy, or whose
    bytes are unknown, are left out."""
    return [part for group in groups for part in _split(group, facts)]


def counts(judged: Iterable[Sequence[Member]]) -> tuple[int, int]:
    """The numbers of exact and of near duplicates in groups: the records that are not kept."""
    others = collections.Counter(one.is_exact for group in judged for one in group if not one.is_kept)
    return others[True], others[False]


def _rank(group: Group, facts: FileFacts, place: int) -> tuple[int, int, int, str]:
    """The smallest is kept."""
    row = group.rows[place]
    pixels = int(facts.widths[row]) * int(facts.heights[row])
    return -pixels, -int(facts.sizes[row]), int(facts.versions[row]), group.keys[place]


def _split(group: Group, facts: FileFacts) -> list[Group]:
    by_digest: dict[bytes, list[int]] = collections.defaultdict(list)
    for place, row in enumerate(group.rows):
        if digest := facts.digest(row):
            by_digest[digest].append(place)
    return [
        Group(
            tuple(group.keys[place] for place in places),
            tuple(group.distances[place] for place in places),
            tuple(group.rows[place] for place in places),
        )
        for places in by_digest.values()
        if len(places) > 1
    ]
