"""Owns the distances between codes of different pictures: how large a share of all pairs lies within a distance.

Near pairs may be copies, which must not count. Where the pictures can be seen, some pairs at each distance are
checked, and the share of strangers among them scales the count. Without pictures, only distances with many more
pairs than there can be copies are counted. Below the counted distances, shares are extrapolated: distances of
codes are nearly normal, so their probits are nearly a line."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from lookalike.jobs.dedup.join import Codes, as_words
from lookalike.jobs.dedup.roots import Numbers
from lookalike.model.errors import InvalidRequest

_COMPARED_PAIRS = 100_000_000
# Pairs are checked at distances within which less than this share of all pairs lies: there, copies could matter.
_CHECKED_SHARE = 1e-3
_CHECKED_PAIRS = 20
# With fewer pairs, a share is extrapolated, not counted.
_COUNTED_PAIRS = 20
# Without checks, counted shares are this many times the copies' expected share of all pairs.
_OUTWEIGHS = 10
_FITTED_SHARES = 100.0
_LARGEST_FITTED_SHARE = 0.05

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, slots=True)
class Sampled:
    """The distances of some codes from all others.

    Attributes:
        records: The number of codes in the collection.
        rows: The codes that were compared with all, int64.
        counts: Pairs by distance, int64 (bits + 1,).
    """

    records: int
    rows: Numbers
    counts: npt.NDArray[np.int64]

    @property
    def pairs(self) -> int:
        """The number of pairs compared. A pair of two of the rows counts twice."""
        return len(self.rows) * (self.records - 1)


def sample(codes: Codes, seed: int = 0) -> Sampled:
    """Compares some codes, chosen at random, with all codes, uint8 (n, bits/8). Raises InvalidRequest if there are
    fewer than two."""
    if len(codes) < 2:
        raise InvalidRequest("calibrate: the collection has fewer than two records; ingest pictures first")
    rows = np.random.default_rng(seed).permutation(len(codes))[: max(1, _COMPARED_PAIRS // len(codes))]
    words = as_words(codes)
    counts = np.zeros(8 * codes.shape[1] + 1, np.int64)
    for row in rows:
        counts += np.bincount(_distances(words, row), minlength=len(counts))
    counts[0] -= len(rows)  # each code's distance from itself
    return Sampled(len(codes), rows, counts)


def pairs_to_check(codes: Codes, sampled: Sampled, seed: int = 0) -> tuple[Numbers, Numbers, Numbers]:
    """Chooses pairs at each distance at which copies could matter.

    Returns:
        Rows of the codes, int64 (pairs,) each, and their distances.
    """
    rng = np.random.default_rng(seed)
    limit = int(np.searchsorted(sampled.counts.cumsum(), _CHECKED_SHARE * sampled.pairs, "right"))
    found: list[list[tuple[int, int]]] = [[] for _ in range(limit)]
    words = as_words(codes)
    for row in sampled.rows.tolist():
        apart = _distances(words, row)
        others = np.flatnonzero(apart < limit)
        for other in rng.permutation(others).tolist():
            here = found[apart[other]]
            if other != row and len(here) < _CHECKED_PAIRS:
                here.append((row, other))
        if all(len(here) == _CHECKED_PAIRS for here in found):
            break
    pairs = np.array([pair for here in found for pair in here], np.int64).reshape(-1, 2)
    distances = np.repeat(np.arange(limit), [len(here) for here in found])
    return pairs[:, 0], pairs[:, 1], distances


def checked_shares(sampled: Sampled, distances: Numbers, is_stranger: npt.NDArray[np.bool_]) -> Floats:
    """The share of all pairs that are strangers within each distance, from checked pairs.

    Args:
        sampled: The distances between the codes.
        distances: Those of the checked pairs, int64 (checked,).
        is_stranger: Whether the pictures of a pair differ, bool (checked,).

    Returns:
        float64 (distances,), ascending.
    """
    bits = len(sampled.counts)
    checked = np.bincount(distances, minlength=bits)
    strangers = np.bincount(distances[is_stranger], minlength=bits)
    counts = sampled.counts * np.where(checked > 0, strangers / np.maximum(checked, 1), 1.0)
    shares: Floats = counts.cumsum() / sampled.pairs
    return _with_tail(shares, _COUNTED_PAIRS / sampled.pairs, _FITTED_SHARES)


def estimated_shares(sampled: Sampled, share: float) -> Floats:
    """The share of all pairs that are strangers within each distance, from the codes alone.

    Args:
        sampled: The distances between the codes.
        share: The assumed share of records that are a copy of another.

    Returns:
        float64 (distances,), ascending.
    """
    copies = 2 * share / sampled.records
    shares: Floats = sampled.counts.cumsum() / sampled.pairs
    return _with_tail(shares, max(_COUNTED_PAIRS / sampled.pairs, _OUTWEIGHS * copies), np.inf)


def _with_tail(shares: Floats, counted: float, fitted: float) -> Floats:
    """Replaces the shares below `counted` by a line through the probits of those above, up to `fitted` times as
    much."""
    first = int(np.searchsorted(shares, counted))
    largest = max(min(fitted * counted, _LARGEST_FITTED_SHARE), 2 * counted)
    above = np.arange(first, max(first + 3, int(np.searchsorted(shares, largest))))
    above = above[(above < len(shares)) & (shares[np.minimum(above, len(shares) - 1)] < 1)]
    if len(above) < 2:
        return shares
    normal = NormalDist()
    probits = [normal.inv_cdf(each) for each in shares[above].tolist()]
    slope, start = np.polyfit(above, probits, 1, w=np.sqrt(shares[above])).tolist()
    below = np.array([normal.cdf(start + max(slope, 0.0) * each) for each in range(first)])
    return np.concatenate([np.minimum(below, shares[first]), shares[first:]])


def _distances(words: npt.NDArray[np.uint64], row: int) -> npt.NDArray[np.int64]:
    found: npt.NDArray[np.int64] = np.bitwise_count(words ^ words[row]).sum(axis=1, dtype=np.int64)
    return found
