"""Owns hashes that are fitted to a sample of features, without labels: mean-centred LSH, PCA rotation, and ITQ.

PCA and ITQ work on features of unit length, where Euclidean and cosine distance agree. Both rotate the directions
of the greatest variance, so that each bit carries the same share of it. PCA rotates at random. ITQ (Gong &
Lazebnik, CVPR 2011) rotates the features close to the corners of a hypercube, where taking their signs changes
them little."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from encoder.hashing import LSH, Features, LinearHash, drawn, fitted, normalised
from lookalike.model.errors import InvalidRequest

CENTRED, PCA, ITQ = "centred", "pca", "itq"
METHODS = (LSH, CENTRED, PCA, ITQ)
# The most directions in one rotation. For more bits, the same directions are rotated again: on photographs this
# gave better results than including directions of little variance, and it fits faster.
_DIRECTIONS = 128
_ITERATIONS = 50

_Matrix = npt.NDArray[np.float64]


def fit(method: str, sample: Features, bits: int, seed: int = 0, features: str = "") -> LinearHash:
    """Fits a hash.

    Args:
        method: One of METHODS.
        sample: Features of images that resemble those to be indexed, float32 (n, width).
        bits: The number of bits of a code.
        seed: Seed of the random numbers.
        features: Text that identifies the network, weights and layer that computed the features.

    Raises:
        InvalidRequest: If the method is unknown, or the sample is too small.
    """
    if method == LSH:
        return drawn(sample.shape[1], bits, seed)
    if method == CENTRED:
        centre: Features = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        return drawn(sample.shape[1], bits, seed, centre, features)
    if method not in METHODS:
        raise InvalidRequest(f"method: unknown value {method!r}; use one of {', '.join(METHODS)}")
    rotate = _itq_rotation if method == ITQ else _random_rotation
    # Threads gain nothing on such small matrices, and on a busy machine they wait for each other.
    with threadpool_limits(1, "blas"):
        planes, mean = _rotated_directions(normalised(sample).astype(np.float64), bits, seed, rotate)
    return fitted(method, planes.astype(np.float32), -(planes @ mean).astype(np.float32), True, features)


def _rotated_directions(
    sample: _Matrix, bits: int, seed: int, rotate: Callable[[_Matrix, np.random.RandomState], _Matrix]
) -> tuple[_Matrix, _Matrix]:
    """Returns the normals of the hyperplanes, (bits, width), and the mean, (width,), through which they pass."""
    mean = sample.mean(axis=0)
    directions = _principal_directions(sample - mean, min(bits, _DIRECTIONS))
    components = (sample - mean) @ directions.T
    random = np.random.RandomState(seed)
    rotations = []
    for start in range(0, bits, len(directions)):
        count = min(len(directions), bits - start)
        rotations.append(rotate(components[:, :count], random).T @ directions[:count])
    return np.concatenate(rotations), mean


def _principal_directions(centred: _Matrix, count: int) -> _Matrix:
    """Returns `count` unit directions of greatest variance, (count, width), or fewer if the sample spans fewer."""
    n, width = centred.shape
    if n < width:
        values, vectors = np.linalg.eigh(centred @ centred.T)
        vectors = centred.T @ vectors
    else:
        values, vectors = np.linalg.eigh(centred.T @ centred)
    order = np.argsort(-values)[:count]
    order = order[values[order] > values.max(initial=0.0) * 1e-9]
    if len(order) < min(count, 8):
        raise InvalidRequest(
            f"sample: its {n:,} images span only {len(order)} directions; fit to more images that differ more"
        )
    chosen = vectors[:, order].T
    directions: _Matrix = chosen / np.linalg.norm(chosen, axis=1, keepdims=True)
    return directions


def _random_rotation(components: _Matrix, random: np.random.RandomState) -> _Matrix:
    """Returns a random orthogonal matrix, (d, d)."""
    q, r = np.linalg.qr(random.standard_normal((components.shape[1],) * 2))
    rotation: _Matrix = q * np.sign(np.diag(r))
    return rotation


def _itq_rotation(components: _Matrix, random: np.random.RandomState) -> _Matrix:
    """Returns an orthogonal matrix, (d, d). Alternates two steps: finds the corner nearest to each row, then the
    rotation that brings the rows nearest to these corners (orthogonal Procrustes)."""
    rotation = _random_rotation(components, random)
    for _ in range(_ITERATIONS):
        corners = np.where(components @ rotation > 0, 1.0, -1.0)
        u, _s, vt = np.linalg.svd(components.T @ corners)
        rotation = u @ vt
    return rotation
