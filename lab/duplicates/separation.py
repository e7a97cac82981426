"""Owns recall at fixed rates of false pairs: how many copies lie nearer to their originals than the nearest pairs
of different pictures do. Distances of all pairs are counted, never kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from encoder.copies.edits import EDITS
from encoder.hashing import normalised
from lab.duplicates.pictures import Flags, Floats, Numbers, Pictures
from lookalike.jobs.dedup.join import as_words

_COPIES_AT_A_TIME = 256
# Cosine distances are counted in steps of this size.
COSINE_STEP = 1e-4

Codes = npt.NDArray[np.uint8]
# The distances of some copies from all originals, int (rows, originals).
Distances = Callable[[slice], npt.NDArray[np.integer]]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Separation:
    """How far copies lie from their originals, and from other pictures.

    Attributes:
        own: The distance of each copy from its original, int64 (copies,).
        false: Pairs of different pictures by distance, int64 (levels,).
    """

    own: Numbers
    false: Numbers

    def limit(self, one_in: int) -> int:
        """The largest distance such that at most one in `one_in` pairs of different pictures lies below it."""
        allowed = int(self.false.sum()) // one_in
        return int(np.searchsorted(self.false.cumsum(), allowed, "right"))

    def is_found(self, one_in: int) -> Flags:
        """Which copies lie below that limit, bool (copies,). Pairs at the limit itself would let too many false
        pairs pass."""
        found: Flags = self.own < self.limit(one_in)
        return found


def separate(pictures: Pictures, distances: Distances, levels: int) -> Separation:
    """Compares all copies with all originals. levels: one more than the largest distance."""
    own, false = np.zeros(len(pictures.origin), np.int64), np.zeros(levels, np.int64)
    for start in range(0, len(own), _COPIES_AT_A_TIME):
        rows = slice(start, min(start + _COPIES_AT_A_TIME, len(own)))
        apart = distances(rows)
        own[rows] = apart[np.arange(len(apart)), pictures.origin[rows]]
        false += np.bincount(apart[pictures.is_false(rows)], minlength=levels)
    return Separation(own, false)


def by_codes(
    pictures: Pictures, originals: Codes, copies: Codes, usable: tuple[Flags, Flags] | None = None
) -> Separation:
    """Compares codes, uint8 (n, bytes), by the number of differing bits. usable: which codes of the originals, and
    of the copies, may be compared; others are far from all."""
    bits = 8 * originals.shape[1]

    def distances(rows: slice) -> npt.NDArray[np.integer]:
        apart = hamming(copies[rows], originals)
        if usable is not None:
            apart[~(usable[1][rows][:, None] & usable[0])] = bits
        return apart

    return separate(pictures, distances, bits + 1)


def by_cosine(pictures: Pictures, originals: Floats, copies: Floats) -> Separation:
    """Compares features, float32 (n, width), by cosine distance, in steps of COSINE_STEP."""
    left, right = normalised(copies), normalised(originals)
    levels = round(2 / COSINE_STEP) + 1

    def distances(rows: slice) -> npt.NDArray[np.integer]:
        apart = np.rint((1 - left[rows] @ right.T) / COSINE_STEP).astype(np.int64)
        clipped: npt.NDArray[np.integer] = np.clip(apart, 0, levels - 1)
        return clipped

    return separate(pictures, distances, levels)


def hamming(left: Codes, right: Codes) -> npt.NDArray[np.uint16]:
    """The distances of codes, uint8 (n, bytes) each, in bits: uint16 (n left, n right)."""
    found = np.zeros((len(left), len(right)), np.uint16)
    for one, other in zip(as_words(left).T, as_words(right).T, strict=True):
        found += np.bitwise_count(one[:, None] ^ other)
    return found


def shares(pictures: Pictures, is_found: Flags) -> dict[str, float]:
    """The share of copies that are found, by edit."""
    return {edit: float(is_found[pictures.edit == number].mean()) for number, edit in enumerate(EDITS)}
