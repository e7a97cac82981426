"""Calibrations: predicted false pairs against the true numbers, and the distances that follow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from lookalike.jobs.dedup import strangers
from lookalike.jobs.dedup.calibration import Calibration, calibrated, from_text
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest

SPACE = CodeSpace(bits=64)
NOTE_BYTES = 48 * 1024


def codes_with_copies(rows: int, bits: int = 64, share: float = 0.05) -> np.ndarray[Any, Any]:
    """Random codes, uint8 (rows, bits/8); a share of them are others with up to 3 other bits."""
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (rows, bits), np.uint8)
    for row in range(int(rows * share)):
        codes[row] = codes[rows - 1 - row]
        codes[row, rng.permutation(bits)[: rng.integers(0, 4)]] ^= 1
    return np.packbits(codes, axis=1)


def calibration(codes: Any, copies: Any = None, space: CodeSpace = SPACE, **settings: Any) -> Calibration:
    """A calibration by the codes alone, and the copies' distances."""
    sampled = strangers.sample(codes)
    shares = strangers.estimated_shares(sampled, 0.05)
    return calibrated(space, sampled, shares, copies or {}, {}, **settings)


@pytest.mark.parametrize("is_checked", [True, False])
@pytest.mark.parametrize("rows", [500, 5_000])
def test_predicted_false_pairs_are_within_a_factor_of_two(rows: int, is_checked: bool) -> None:
    """Although a twentieth of the codes are copies, which are most of the near pairs. The distances of random
    codes are known: they have a binomial distribution."""
    codes = codes_with_copies(rows)
    sampled = strangers.sample(codes)
    if is_checked:
        left, right, apart = strangers.pairs_to_check(codes, sampled)
        assert 20 < len(left) < 2_000
        shares = strangers.checked_shares(sampled, apart, left + right != rows - 1)
    else:
        shares = strangers.estimated_shares(sampled, 0.05)
    exact = binom.cdf(np.arange(len(shares)), 64, 0.5)
    expected_pairs = exact * rows * (rows - 1) / 2
    counted = expected_pairs >= 3
    assert counted.sum() > 5
    assert (shares[counted] / exact[counted]).max() < 2
    assert (shares[counted] / exact[counted]).min() > 0.5
    assert (np.diff(shares) >= 0).all()


def test_the_chosen_distance_reaches_the_precision_and_shrinks_as_the_collection_grows() -> None:
    codes = codes_with_copies(2_000)
    copies = {"crop": list(range(30)), "blur": [2] * 30}
    made = calibration(codes, copies)
    assert made.recall(9, "crop") == pytest.approx(1 / 3)
    assert made.mean_recall(9) == pytest.approx(2 / 3)
    true = 2_000 * made.share * made.mean_recall(made.max_distance)
    assert true / (true + made.false_pairs(made.max_distance)) >= 0.99
    assert made.distance_for(2_000) == made.max_distance
    assert 0 < made.distance_for(200_000) < made.max_distance <= made.wide_distance
    assert calibration(codes, copies, precision=0.9).max_distance > made.max_distance


def test_codes_without_pictures_give_an_estimate() -> None:
    made = calibration(codes_with_copies(1_000))
    assert made.source.startswith("estimated")
    assert made.pictures == 0
    assert 0 < made.max_distance < 20


def test_pdq_has_the_published_distance_in_any_collection() -> None:
    made = calibration(codes_with_copies(300, 256), space=CodeSpace.of_kind("pdq"))
    assert (made.max_distance, made.distance_for(10**6)) == (31, 31)
    assert made.source == "published for pdq"


def test_a_calibration_fits_into_a_note_for_all_widths() -> None:
    for bits in (16, 256, 8_192):
        codes = codes_with_copies(40, bits)
        made = calibration(codes, {f"edit {n}": [bits - 1] * 5_000 for n in range(12)}, CodeSpace(bits=bits))
        text = made.to_text()
        assert len(text.encode()) < NOTE_BYTES
        assert from_text(text) == made


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"form": 1}', '{"form": 99}', "no json"])
def test_another_note_is_an_error(text: str) -> None:
    with pytest.raises(InvalidRequest, match="calibration: the collection's note cannot be read"):
        from_text(text)


def test_a_collection_needs_two_records() -> None:
    with pytest.raises(InvalidRequest, match="fewer than two records"):
        strangers.sample(codes_with_copies(1))
