"""Owns what a measurement of duplicates will cost, before its work: pictures, copies, pairs and time. The time
comes from the first pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

from joblib import cpu_count
from threadpoolctl import threadpool_limits

from encoder.copies import checks
from encoder.copies.edits import EDITS
from encoder.features import FeatureModel, stacked
from encoder.progress import duration
from lab.duplicates.pictures import Seen, see
from lab.duplicates.run import Plan
from lookalike.jobs.dedup.candidates import NEAREST

_FIRST_PICTURES = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """What the work will cost.

    Attributes:
        pictures: How many pictures are compared.
        edited: How many of them are edited.
        rows: How many methods are compared.
        describe_seconds: How long it takes to edit, encode, hash and describe.
        opinion_seconds: How long the second opinion takes.
    """

    pictures: int
    edited: int
    rows: int
    describe_seconds: float
    opinion_seconds: float

    def lines(self, found: int) -> list[str]:
        """The cost as lines of text. found: how many pictures there are in all."""
        copies = self.edited * len(EDITS)
        some = "" if found == self.pictures else f" of {found:,}"
        return [
            f"{self.pictures:,}{some} pictures, {self.edited:,} of them edited in {len(EDITS)} ways:"
            f" {copies:,} copies, {copies * (self.pictures - 1):,} pairs of different pictures, {self.rows} rows",
            f"estimated time: editing, encoding and hashing about {duration(self.describe_seconds)};"
            f" second opinion about {duration(self.opinion_seconds)}",
        ]


def estimate(urls: Sequence[str], edited: int, network: FeatureModel, plan: Plan, has_groups: bool) -> Cost:
    """Edits and compares the first pictures.

    Args:
        urls: The pictures to be compared.
        edited: How many of them are edited.
        network: Computes features.
        plan: What to compare.
        has_groups: Whether it is known which pictures are copies of each other.
    """
    copies = edited * len(EDITS)
    comparisons = (copies + (0 if has_groups else len(urls) / 2)) * NEAREST
    each, pair = _measured(urls[:_FIRST_PICTURES], network)
    describing, comparing = each * (len(urls) + copies), pair * comparisons
    return Cost(len(urls), edited, plan.codes + 6, describing, comparing)


def _measured(urls: Sequence[str], network: FeatureModel) -> tuple[float, float]:
    """Seconds for a file, and for a pair."""
    started = time.perf_counter()
    seen = [one for number, url in enumerate(urls) for one in see(number, url, True)]
    if not seen:
        return 0.0, 0.0
    seeing = (time.perf_counter() - started) / len(seen) / cpu_count()
    encoding = _encoding([one.file for one in seen], network)
    return seeing + encoding, _comparing(seen) / cpu_count()


def _encoding(files: Sequence[bytes], network: FeatureModel) -> float:
    seconds = 0.0
    # The first call also prepares the network.
    for _ in range(2):
        started = time.perf_counter()
        if (pixels := stacked(network.decode(files))) is not None:
            network.features(pixels)
        seconds = time.perf_counter() - started
    return seconds / len(files)


def _comparing(seen: Sequence[Seen]) -> float:
    """Most pairs show different pictures."""
    first, *others = (one.details for one in seen[:: len(EDITS) + 1])
    seconds = 0.0
    # As in the processes that compare.
    with threadpool_limits(1):
        # The first round also prepares OpenCV.
        for _ in range(2):
            started = time.perf_counter()
            for other in others:
                checks.is_copy(first, other, any_orientation=True)
            seconds = time.perf_counter() - started
    return seconds / max(1, len(others))
