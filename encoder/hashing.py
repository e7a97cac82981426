"""Owns the hash: features to sign bits by random hyperplanes (LSH for cosine; Charikar 2002), optionally
after centring. Plain NumPy; `encoder.model` does the same arithmetic on the device."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import numpy.typing as npt

from lookalike.errors import CannotStart

METHOD = "lsh"
# Orthogonal hyperplanes spread better than independent ones (Ji et al., NIPS 2012), but only so many can be
# orthogonal, and the cost grows with their square.
_BLOCK = 1_024

Features = npt.NDArray[np.float32]


class Hyperplanes:
    """bits random hyperplanes in a space of `width` features: the sign of planes @ (x - mean).

    mean: float32 (width,), fitted on a sample by `fit_mean`; without it the planes pass through zero."""

    def __init__(self, width: int, bits: int, seed: int, mean: Features | None = None) -> None:
        if mean is not None and mean.shape != (width,):
            raise CannotStart(
                f"encoder.mean: has shape {mean.shape}, the features have ({width},);"
                " fit it again with `lookalike fit-mean` for this model"
            )
        self.mean = mean
        self.planes = _hyperplanes(width, bits, seed)
        # Digests the parameters, not the planes: those may differ in the last place between machines.
        parameters = {
            "width": width,
            "seed": seed,
            "block": _BLOCK,
            "mean": "" if mean is None else hashlib.sha256(mean.astype("<f4").tobytes()).hexdigest(),
        }
        self.digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()

    def codes(self, features: Features) -> npt.NDArray[np.uint8]:
        """features: float32 (n, width). Returns packed codes, uint8 (n, bits/8)."""
        centred = features if self.mean is None else features - self.mean
        return np.packbits(centred @ self.planes.T > 0, axis=1)


def fit_mean(features: Features) -> Features:
    """The mean of a sample of features, float32 (n, width) -> (width,)."""
    mean: Features = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean


def _hyperplanes(width: int, bits: int, seed: int) -> Features:
    """float32 (bits, width), unit rows, orthogonal within blocks. RandomState's stream is frozen for good,
    so a seed means the same planes with every NumPy."""
    random = np.random.RandomState(seed)
    block = min(width, _BLOCK)
    rows = []
    for start in range(0, bits, block):
        gaussian = random.standard_normal((min(block, bits - start), width))
        q, r = np.linalg.qr(gaussian.T)
        rows.append((q * np.sign(np.diag(r))).T.astype(np.float32))
    return np.concatenate(rows)
