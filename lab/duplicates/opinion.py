"""Owns the second opinion of `lookalike dedup` about each copy and the originals nearest to it by codes; and which
originals are copies of each other."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from joblib import cpu_count

from encoder.copies import checks
from encoder.copies.checking import in_parallel
from encoder.copies.edits import EDITS
from encoder.hashing import drawn
from lab.duplicates.pictures import Flags, Floats, Numbers, Pictures
from lab.duplicates.separation import Codes, hamming
from lookalike.jobs.dedup import strangers
from lookalike.jobs.dedup.calibration import Calibration, calibrated
from lookalike.jobs.dedup.candidates import NEAREST
from lookalike.jobs.dedup.roots import Roots
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest

# The codes that find candidates are those of the default encoder.
CANDIDATE_BITS = 256
# `lookalike calibrate` edits as many pictures.
CALIBRATED = 300
_ROWS_AT_A_TIME = 256
_TASKS_PER_PROCESS = 4

Report = Callable[[int], None]

if TYPE_CHECKING:
    from encoder.features import FeatureModel


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Opinion:
    """What the second opinion accepts. The second of two values takes mirrored pictures as copies too.

    Attributes:
        is_found: Which copies it finds, two arrays, bool (copies,).
        false_pairs: How many pairs of different pictures it accepts.
        pairs: How many pairs it compared.
    """

    is_found: tuple[Flags, Flags]
    false_pairs: tuple[int, int]
    pairs: int


def calibrate(pictures: Pictures, codes: Codes, own: Numbers, space: CodeSpace) -> Calibration:
    """What `lookalike calibrate` would measure.

    Args:
        pictures: The pictures.
        codes: The codes of the originals, uint8 (originals, bytes).
        own: The distance of each copy from its original, int64 (copies,).
        space: The codes' code space.
    """
    chosen = np.isin(pictures.origin, np.unique(pictures.origin)[:CALIBRATED])
    copies = {edit: own[chosen & (pictures.edit == number)].tolist() for number, edit in enumerate(EDITS)}
    sampled = strangers.sample(codes)
    left, right, apart = strangers.pairs_to_check(codes, sampled)
    details = pictures.originals.details
    differ = [
        not checks.is_copy(details[one], details[other], any_orientation=True)
        for one, other in zip(left.tolist(), right.tolist(), strict=True)
    ]
    shares = strangers.checked_shares(sampled, apart, np.array(differ, np.bool_))
    return calibrated(space, sampled, shares, copies, {})


def judge(pictures: Pictures, originals: Codes, copies: Codes, wide: int, report: Report) -> Opinion:
    """Compares each copy with the `NEAREST` originals within `wide` bits, as `dedup` does.

    Args:
        pictures: The pictures.
        originals: The codes of the originals, uint8 (originals, bytes).
        copies: The codes of the copies, uint8 (copies, bytes).
        wide: The largest distance of a pair.
        report: Called with the number of copies done since the last call.
    """
    nearest = [row[apart <= wide] for row, apart in _nearest(copies, originals, NEAREST)]
    found = np.zeros((2, len(copies)), np.bool_)
    false = np.zeros(2, np.int64)
    accepted = _accepted(pictures.originals.details, pictures.copies.details, nearest)
    for copy, (row, verdicts) in enumerate(zip(nearest, accepted, strict=True)):
        report(1)
        is_false = pictures.group[row] != pictures.group[pictures.origin[copy]]
        found[:, copy] = verdicts[row == pictures.origin[copy]].any(axis=0)
        false += verdicts[is_false].sum(axis=0)
    return Opinion((found[0], found[1]), (int(false[0]), int(false[1])), sum(map(len, nearest)))


def groups_of(pictures: Pictures, codes: Codes, report: Report) -> Numbers:
    """Groups originals that are copies of each other, or mirror images, by the second opinion.

    Args:
        pictures: The pictures.
        codes: The codes of the originals, uint8 (originals, bytes).
        report: Called with the number of originals done since the last call.

    Returns:
        int64 (originals,), equal for the pictures of a group.
    """
    count, details = len(codes), pictures.originals.details
    found = np.array([row for row, _ in _nearest(codes, codes, min(count, NEAREST + 1))], np.int64)
    ends = np.stack([np.repeat(np.arange(count), found.shape[1]), found.ravel()])
    # Each pair once, and no picture with itself.
    numbers = np.unique(ends.min(axis=0) * count + ends.max(axis=0))
    left, right = np.divmod(numbers, count)
    left, right = left[left != right], right[left != right]
    candidates = np.split(right, np.searchsorted(left, np.arange(1, count)))
    roots = Roots(count)
    accepted = _accepted(details, details, candidates)
    for each, (row, verdicts) in enumerate(zip(candidates, accepted, strict=True)):
        report(1)
        same = row[verdicts[:, 1]]
        roots.join(np.full(len(same), each, np.int64), same)
    return roots.all()


def listed_groups(keys: Sequence[str], file: Path) -> Numbers:
    """Groups originals as a file says, each line of which has the keys of pictures that show the same.

    Args:
        keys: The keys of the originals. A listed key may be the end of one, as `cats/tom.jpg`.
        file: The file. Lines that begin with # are comments.

    Returns:
        int64 (originals,), equal for the pictures of a group.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"same: {file} cannot be read ({error}); name a text file") from None
    line_of = {name: -1 - number for number, line in enumerate(lines) if line[:1] != "#" for name in line.split()}
    return np.array([_line_of(key, line_of, row) for row, key in enumerate(keys)], np.int64)


def _line_of(key: str, line_of: Mapping[str, int], row: int) -> int:
    parts = key.split("/")
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((line_of[end] for end in ends if end in line_of), row)


def candidate_codes(network: FeatureModel, features: Floats) -> Codes:
    """The codes that find candidates: the default encoder's hash of features, float32 (n, width)."""
    return drawn(network.width, CANDIDATE_BITS, 0).codes(features)


def _nearest(queries: Codes, codes: Codes, count: int) -> Iterator[tuple[Numbers, npt.NDArray[np.uint16]]]:
    """Yields the rows of the nearest codes of each query, and their distances; of equal ones, the first rows."""
    for start in range(0, len(queries), _ROWS_AT_A_TIME):
        apart = hamming(queries[start : start + _ROWS_AT_A_TIME], codes)
        for found in apart:
            row = np.argsort(found, kind="stable")[:count]
            yield row, found[row]


def _accepted(
    originals: Sequence[checks.Details], copies: Sequence[checks.Details], candidates: Sequence[Numbers]
) -> Iterator[Flags]:
    """Yields, for each copy, whether each candidate is its original, and whether it is that or a mirrored one,
    bool (candidates, 2)."""
    workers = cpu_count()
    # Threads of torch do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start, (originals,)) as pool:
        tasks = zip(copies, candidates, strict=True)
        yield from in_parallel(pool, _verdicts, tasks, workers * _TASKS_PER_PROCESS)


_originals: Sequence[checks.Details] = ()


def _start(originals: Sequence[checks.Details]) -> None:
    import cv2
    from threadpoolctl import threadpool_limits

    global _originals
    _originals = originals
    cv2.setNumThreads(1)
    threadpool_limits(1)


def _verdicts(copy: checks.Details, candidates: Numbers) -> Flags:
    mirrored = copy.mirrored()
    found = []
    for original in (_originals[each] for each in candidates.tolist()):
        is_copy = checks.is_copy(copy, original)
        found.append((is_copy, is_copy or checks.is_copy(mirrored, original)))
    return np.array(found, np.bool_).reshape(-1, 2)
