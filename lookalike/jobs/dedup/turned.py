"""Owns the pairs of records of which one picture may be a turned or mirrored copy of the other. Codes of turned
pictures are far apart, so perceptual hashes find the pairs: the hash of a turned picture follows from the hash of
the upright one.

The hash's 8 x 8 bits say which of the picture's lowest cosine frequencies exceed their median (`imagehash.phash`).
Mirroring a picture changes the sign of its odd frequencies, and a reflection in the diagonal swaps rows and
columns. The median is near zero but not zero, so a derived hash differs by a few bits from the turned picture's
own: on 300 photographs saved again at quality 60, by at most 14 bits, in 99 % by at most 10."""

from __future__ import annotations

import concurrent.futures
import os

import numpy as np
import numpy.typing as npt

from lookalike.jobs.dedup.join import Report
from lookalike.jobs.dedup.roots import Numbers

# Of 1,500 different photographs, about one pair in 10,000 is within this distance.
MAX_DISTANCE = 12
# The nearest records of each record, in each orientation.
NEAREST = 8

_SIDE = 8
# A tile of this many hashes on each side stays in a processor's cache while it is compared.
_ROWS = 64
_COLUMNS = 8192

Hashes = npt.NDArray[np.uint64]


def orientations(hashes: Hashes) -> list[Hashes]:
    """The hashes of turned and mirrored pictures: turned by a quarter and by a half, upside down, and reflected in
    each diagonal. Mirrored pictures are left out, because their codes are near. A turn by three quarters is a
    quarter turn of the other picture of a pair.

    Args:
        hashes: Of upright pictures, uint64 (n,), whose first bit is the highest.

    Returns:
        Five arrays of hashes, uint64 (n,) each.
    """
    bits = np.unpackbits(hashes.astype(">u8").view(np.uint8)).reshape(-1, _SIDE, _SIDE).astype(np.bool_)
    is_odd = np.arange(_SIDE) % 2 == 1
    rows, columns = np.broadcast_to(is_odd[:, None], (_SIDE, _SIDE)), np.broadcast_to(is_odd, (_SIDE, _SIDE))
    reflected = bits.transpose(0, 2, 1)
    turned = (reflected ^ rows, bits ^ rows ^ columns, bits ^ rows, reflected, reflected ^ rows ^ columns)
    return [_packed(each) for each in turned]


def _packed(bits: npt.NDArray[np.bool_]) -> Hashes:
    return np.packbits(bits.reshape(-1, _SIDE * _SIDE), axis=1).view(">u8").ravel().astype(np.uint64)


def find_turned(hashes: Hashes, report: Report = lambda records: None) -> tuple[Numbers, Numbers]:
    """Finds the pairs of records whose hashes are near if one picture is turned. All pairs are compared: on two
    cores, 100,000 records take 20 s.

    Args:
        hashes: Perceptual hashes, uint64 (n,), 0 where there is none.
        report: Called with the number of records done so far.

    Returns:
        Rows, int64 (pairs,) each, the left one smaller, in ascending order, without repetition.
    """
    rows = np.flatnonzero(hashes)
    known = hashes[rows]
    asked = orientations(known)
    starts = range(0, len(known), _ROWS)
    parts = [np.empty((0, 2), np.int64)]
    with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for start, found in zip(
            starts, pool.map(lambda start: _nearest(asked, known, start), starts), strict=True
        ):
            parts.append(found)
            report(min(start + _ROWS, len(known)))
    pairs = np.unique(np.sort(rows[np.concatenate(parts)], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _nearest(asked: list[Hashes], known: Hashes, start: int) -> npt.NDArray[np.int64]:
    """The nearest hashes of `_ROWS` hashes from `start`, in each orientation: places, int64 (found, 2)."""
    found = [np.empty((0, 2), np.int64)]
    for turned in asked:
        tiles = [_near(turned[start : start + _ROWS], known, first) for first in range(0, len(known), _COLUMNS)]
        places, others, apart = (np.concatenate(columns) for columns in zip(*tiles, strict=True))
        is_other = places + start != others
        places, others, apart = places[is_other], others[is_other], apart[is_other]
        order = np.lexsort((others, apart, places))
        places, others = places[order], others[order]
        # How many nearer ones the same record has.
        rank = np.arange(len(places)) - np.searchsorted(places, places)
        is_nearest = rank < NEAREST
        found.append(np.stack([places[is_nearest] + start, others[is_nearest]], axis=1))
    return np.concatenate(found)


def _near(turned: Hashes, known: Hashes, first: int) -> tuple[Numbers, Numbers, npt.NDArray[np.uint8]]:
    """Places in `turned`, and places of hashes within the distance among `_COLUMNS` of the known ones from
    `first`, int64 (found,) each; and their distances, uint8 (found,)."""
    apart = np.bitwise_count(turned[:, None] ^ known[first : first + _COLUMNS])
    near = np.flatnonzero(apart <= MAX_DISTANCE)
    places, others = np.divmod(near, apart.shape[1])
    return places, others + first, apart.ravel()[near]
