"""Pairs of pictures that may be turned copies, by their perceptual hashes."""

from __future__ import annotations

import imagehash
import numpy as np
import pytest
from PIL import Image

from encoder.copies.edits import saved
from encoder.copies.pictures import opened
from encoder.file_facts import facts
from lab.demo.photographs import bundled_photographs
from lookalike.jobs.dedup import turned
from lookalike.jobs.dedup.turned import MAX_DISTANCE, Hashes, find_turned, orientations

TURNS = (
    Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.TRANSVERSE,
)  # fmt: skip


def hash_of(image: Image.Image) -> int:
    return int(facts(saved(image, 60)).phash, 16)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    return [opened(photograph.path.read_bytes()) for photograph in bundled_photographs()]


@pytest.mark.parametrize(("number", "turn"), list(enumerate(TURNS)))
def test_derived_hashes_are_near_those_of_turned_pictures(
    number: int, turn: Image.Transpose, photographs: list[Image.Image]
) -> None:
    derived = orientations(np.array([hash_of(image) for image in photographs], np.uint64))[number]
    own = np.array([hash_of(image.transpose(turn)) for image in photographs], np.uint64)
    apart = np.bitwise_count(derived ^ own)
    assert (apart <= MAX_DISTANCE).mean() > 0.9
    assert np.median(apart) <= 6


def test_a_reflected_hash_is_the_hash_with_rows_and_columns_swapped() -> None:
    bits = np.random.default_rng(1).integers(0, 2, (8, 8)).astype(np.bool_)
    hashes = np.array([int(str(imagehash.ImageHash(bits)), 16)], np.uint64)
    assert int(orientations(hashes)[3][0]) == int(str(imagehash.ImageHash(bits.T)), 16)


@pytest.mark.parametrize("turn", [*TURNS, Image.Transpose.ROTATE_270])
def test_each_turned_copy_is_a_candidate(turn: Image.Transpose, photographs: list[Image.Image]) -> None:
    count = len(photographs)
    pictures = [*photographs, *(image.transpose(turn) for image in photographs)]
    left, right = find_turned(np.array([hash_of(image) for image in pictures], np.uint64))
    pairs = set(zip(left.tolist(), right.tolist(), strict=True))
    found = [row for row in range(count) if (row, row + count) in pairs]
    assert len(found) >= 0.9 * count


def brute_force(hashes: Hashes) -> set[tuple[int, int]]:
    """Each record's nearest within the distance, one by one."""
    pairs = set()
    for asked in orientations(hashes):
        for row, each in enumerate(asked.tolist()):
            near = sorted(
                ((each ^ other).bit_count(), place)
                for place, other in enumerate(hashes.tolist())
                if place != row and other and hashes[row] and (each ^ other).bit_count() <= MAX_DISTANCE
            )
            pairs |= {(min(row, place), max(row, place)) for _, place in near[: turned.NEAREST]}
    return pairs


def test_pairs_are_those_of_a_comparison_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles end inside the records, records without a hash are left out, and equal hashes are cut at `NEAREST`."""
    monkeypatch.setattr(turned, "_ROWS", 7)
    monkeypatch.setattr(turned, "_COLUMNS", 11)
    rng = np.random.default_rng(2)
    seeds = rng.integers(1, 2**63, 12, dtype=np.uint64)
    hashes = np.concatenate([seeds, *orientations(seeds), np.zeros(5, np.uint64), np.repeat(seeds[:1], 20)])
    hashes[12:60] ^= np.uint64(1) << rng.integers(0, 64, 48, dtype=np.uint64)
    done: list[int] = []
    left, right = find_turned(hashes, done.append)
    found = list(zip(left.tolist(), right.tolist(), strict=True))
    assert set(found) == brute_force(hashes)
    assert found == sorted(set(found))
    assert len(found) > 60
    assert done[-1] == np.count_nonzero(hashes)


def test_no_hashes_give_no_pairs() -> None:
    for hashes in (np.zeros(0, np.uint64), np.zeros(3, np.uint64)):
        left, right = find_turned(hashes)
        assert (len(left), len(right)) == (0, 0)
