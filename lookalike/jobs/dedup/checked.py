"""Owns the search for near-duplicates with a second opinion: candidates within a wide distance, which a checker
that sees the pictures accepts or rejects. The checker is passed in, because it needs the encoder's packages."""

from __future__ import annotations

import dataclasses
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.candidates import Distances, find_candidates
from lookalike.jobs.dedup.groups import Group, Snapshot, groups_of_pairs
from lookalike.jobs.dedup.join import Report, as_words, distances
from lookalike.jobs.dedup.roots import Numbers
from lookalike.jobs.dedup.turned import find_turned
from lookalike.model.records import Collection

UNKNOWN, DIFFERENT, COPY = 0, 1, 2


class Checker(Protocol):
    """Tells which pairs of rows of a snapshot are copies: uint8 (pairs,), COPY, DIFFERENT, or UNKNOWN if a picture
    cannot be read. Reports the number of pairs done so far."""

    def __call__(
        self, client: Client, collection: Collection, snapshot: Snapshot, left: Numbers, right: Numbers,
        any_orientation: bool, report: Report,
    ) -> npt.NDArray[np.uint8]: ...  # fmt: skip


class Steps(Protocol):
    """Shows the progress of several steps."""

    def start(self, title: str, total: int) -> None: ...

    def completed(self, records: int) -> None: ...


@dataclasses.dataclass(frozen=True, slots=True)
class Checked:
    """Groups, and what became of the candidates.

    Attributes:
        groups: The groups, as `find_groups` returns them.
        candidates: Pairs that were to be checked.
        copies: Pairs that are copies by the second opinion.
        unchecked: Pairs of which a picture cannot be read.
        unchecked_near: Those of them that count as copies, because their codes are near.
    without_hash: Records whose turned copies were not searched for, because no perceptual hash is stored.
    """

    groups: list[Group]
    candidates: int
    copies: int
    unchecked: int
    unchecked_near: int
    without_hash: int = 0


def find_checked_groups(
    client: Client,
    collection: Collection,
    snapshot: Snapshot,
    wide_distance: int,
    near_distance: int,
    checker: Checker,
    any_orientation: bool,
    steps: Steps,
) -> Checked:
    """Finds groups of pictures that are copies by the second opinion.

    Args:
        client: A client of the cluster.
        collection: The collection.
        snapshot: Its records.
        wide_distance: The largest distance of a candidate pair, in bits.
        near_distance: Pairs that cannot be checked count as copies within this distance, in bits.
        checker: Gives the second opinion.
        any_orientation: Whether turned and mirrored pictures count as copies.
        steps: Shows the progress.
    """
    steps.start("searching", len(snapshot.keys))
    left, right, apart = find_candidates(client, collection.name, snapshot, wide_distance, steps.completed)
    if any_orientation:
        steps.start("searching turned copies", len(snapshot.keys))
        left, right, apart = _with_turned(snapshot, left, right, steps.completed)
    steps.start("checking pairs", len(left))
    verdicts = checker(client, collection, snapshot, left, right, any_orientation, steps.completed)
    is_unknown = verdicts == UNKNOWN
    is_near = is_unknown & (apart <= near_distance)
    is_copy = verdicts == COPY
    accepted = is_copy | is_near
    groups = groups_of_pairs(snapshot, left[accepted], right[accepted])
    without_hash = int((snapshot.facts.phashes == 0).sum()) if any_orientation else 0
    return Checked(groups, len(left), int(is_copy.sum()), int(is_unknown.sum()), int(is_near.sum()), without_hash)


def _with_turned(
    snapshot: Snapshot, left: Numbers, right: Numbers, report: Report
) -> tuple[Numbers, Numbers, Distances]:
    """The pairs and those that may be turned copies, with the distances of their codes."""
    pairs = np.concatenate(
        [np.stack([left, right]), np.stack(find_turned(snapshot.facts.phashes, report))], axis=1
    )
    left, right = np.unique(pairs, axis=1)
    return left, right, distances(as_words(snapshot.codes), left, right)
