"""Owns the search for all pairs of near codes in this process, by the pigeonhole principle.

The bits are divided into max_distance + 1 blocks. Two codes within the distance have an equal block, because each
bit that differs is in one block only. So the codes are sorted by the hash of each block in turn; codes with equal
hashes are candidates, and their distance is computed. Random codes have few candidates as long as a block has more
bits than log2(number of codes). The cost is then linear in the number of codes, except for the sorts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from lookalike.jobs.dedup.roots import Numbers, Roots

# With more candidates than this, the cluster searches instead. On two cores, a range search takes as long as about
# 2,500 candidates in a collection of 100,000 codes of 256 bits, and as about 30,000 in one of 2 million.
CANDIDATES_PER_CODE = 5_000

_HASHED_BYTES = 1024 * 1024
_PAIRS = 1 << 16
_COMPARED_BYTES = 2 * 1024 * 1024
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_HALF = np.uint64(32)

Codes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Report = Callable[[int], None]


def as_words(codes: Codes) -> Words:
    """Codes, uint8 (n, bits/8), as uint64 (n, words), padded with zeros."""
    return np.pad(codes, ((0, 0), (0, -codes.shape[1] % 8))).view(np.uint64)


def distances(words: Words, left: Numbers, right: Numbers) -> npt.NDArray[np.uint16]:
    """The distances between two codes each, in bits.

    Args:
        words: The codes, uint64 (n, words).
        left: Rows of `words`, int64 (pairs,).
        right: Rows of `words`, int64 (pairs,).

    Returns:
        uint16 (pairs,): `left[i]` from `right[i]`.
    """
    found = np.empty(len(left), np.uint16)
    step = max(1, _COMPARED_BYTES // (8 * words.shape[1]))
    for start in range(0, len(left), step):
        part = slice(start, start + step)
        differing = words.take(left[part], axis=0)
        differing ^= words.take(right[part], axis=0)
        np.einsum("ij->i", np.bitwise_count(differing), dtype=np.uint16, out=found[part])
    return found


def number_codes(codes: Codes) -> tuple[Codes, Numbers]:
    """Numbers the distinct codes.

    Args:
        codes: uint8 (n, bits/8), with at least one row.

    Returns:
        The distinct codes, uint8 (distinct, bits/8), in no particular order, and the number of each row's code,
        int64 (n,).
    """
    words = as_words(codes)
    hashes = _hashes(words, ~np.zeros(words.shape[1], np.uint64))
    order = np.argsort(hashes)
    is_first = _is_first(hashes[order])
    again = np.flatnonzero(~is_first)
    if distances(words, order[again], order[again - 1]).any():
        # Different codes have the same hash.
        distinct, numbers = np.unique(codes, axis=0, return_inverse=True)
        return distinct, numbers.ravel()
    numbers = np.empty(len(codes), np.int64)
    numbers[order] = np.cumsum(is_first) - 1
    return codes[order[is_first]], numbers


def join_near(
    codes: Codes,
    max_distance: int,
    roots: Roots,
    candidates_per_code: int,
    report: Report = lambda codes: None,
) -> bool:
    """Connects all codes that are within the distance of each other, unless that takes too many comparisons.

    Args:
        codes: Distinct codes, uint8 (n, bits/8).
        max_distance: The largest distance of two connected codes, in bits.
        roots: Connects the rows of `codes`.
        candidates_per_code: The largest average number of pairs to compare per code.
        report: Called with the share of the work done so far, as a number of codes: n at the end.

    Returns:
        False if there are more candidates. Then nothing is connected or reported.
    """
    words = as_words(codes)
    masks = _plan(words, _masks(8 * codes.shape[1], max_distance + 1), candidates_per_code * len(words))
    if masks is None:
        return False
    for done, mask in enumerate(masks):
        hashes = _hashes(words, mask)
        order = np.argsort(hashes)
        for left, right, share in _pairs(_run_sizes(hashes[order])):
            left, right = order.take(left), order.take(right)
            open_pairs = np.flatnonzero(roots.may_differ(left, right))
            left, right = left[open_pairs], right[open_pairs]
            near = distances(words, left, right) <= max_distance
            roots.join(left[near], right[near])
            report(int(len(words) * (done + share) / len(masks)))
        roots.all()
        report(len(words) * (done + 1) // len(masks))
    return True


def _plan(words: Words, masks: Sequence[Words], budget: int) -> Sequence[Words] | None:
    """The masks to search with: those of the blocks, or one for all pairs if these are fewer; None if there are
    more candidates than the budget."""
    all_pairs = len(words) * (len(words) - 1) // 2
    limit = min(budget, all_pairs)
    count = 0
    for mask in masks:
        sizes = _run_sizes(np.sort(_hashes(words, mask)))
        count += int((sizes * (sizes - 1) // 2).sum())
        if count > limit:
            # An empty mask makes all pairs candidates.
            return [np.zeros_like(mask)] if all_pairs <= budget else None
    return masks


def _masks(bits: int, blocks: int) -> list[Words]:
    """Divides the bits of a code into blocks, in a fixed pseudo-random order, as adjacent bits may be correlated.

    Returns:
        A mask of the bits of each block, uint64 (words,).
    """
    order = np.random.default_rng(0).permutation(bits)
    is_in = np.zeros((blocks, bits), np.uint8)
    for block, part in enumerate(np.array_split(order, blocks)):
        is_in[block, part] = 1
    return list(as_words(np.packbits(is_in, axis=1)))


def _hashes(words: Words, mask: Words) -> Words:
    """Hashes of the bits in `mask`, uint64 (n,). Equal bits have equal hashes."""
    hashes = np.zeros(len(words), np.uint64)
    used = np.flatnonzero(mask)
    step = max(1, _HASHED_BYTES // (8 * words.shape[1]))
    for start in range(0, len(words), step):
        part = hashes[start : start + step]
        for column in used:
            part ^= words[start : start + step, column] & mask[column]
            part *= _MULTIPLIER
            part ^= part >> _HALF
    return hashes


def _is_first(ordered: Words) -> npt.NDArray[np.bool_]:
    """Whether each value differs from the one before."""
    found = np.ones(len(ordered), np.bool_)
    np.not_equal(ordered[1:], ordered[:-1], out=found[1:])
    return found


def _run_sizes(ordered: Words) -> Numbers:
    """The lengths of runs of equal values, int64 (runs,)."""
    return np.diff(np.flatnonzero(_is_first(ordered)), append=len(ordered))


def _pairs(sizes: Numbers) -> Iterator[tuple[Numbers, Numbers, float]]:
    """Yields all pairs of positions in the same run, in chunks, each with the share of the pairs yielded so far.

    Args:
        sizes: The lengths of consecutive runs, int64 (runs,).
    """
    ends = np.repeat(np.cumsum(sizes), sizes)
    following = ends - np.arange(len(ends)) - 1
    firsts = np.flatnonzero(following)
    following = following[firsts]
    totals = np.cumsum(following)
    begin = done = 0
    while begin < len(firsts):
        end = max(begin + 1, int(np.searchsorted(totals, done + _PAIRS, "right")))
        counts = following[begin:end]
        left = np.repeat(firsts[begin:end], counts)
        offsets = np.arange(done, totals[end - 1]) - np.repeat(totals[begin:end] - counts, counts)
        begin, done = end, int(totals[end - 1])
        yield left, left + 1 + offsets, done / int(totals[-1])
