"""Hashes fitted to a sample without labels: their planes, and their retrieval quality."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from encoder.features import FeatureModel, stacked
from encoder.hashing import Features, LinearHash, drawn, from_bytes, normalised
from lab.fitting import METHODS, fit
from lookalike.model.errors import InvalidRequest

ROTATIONS = ("pca", "itq")
rotations = pytest.mark.parametrize("method", ROTATIONS)


def clustered(n: int = 400, width: int = 200, classes: int = 12) -> Features:
    """Features of `classes` classes, each scattered about its own centre, with a mean that is not zero."""
    # Not the hyperplanes' generator: with the same numbers, the centres would equal the planes.
    random = np.random.default_rng(0)
    centres = random.standard_normal((classes, width)) * 2
    sample = centres[np.arange(n) % classes] + random.standard_normal((n, width)) + 1
    result: Features = sample.astype(np.float32)
    return result


@pytest.fixture(scope="module")
def real(photographs: Path) -> Features:
    """Features of the forty photographs, (40, 1280)."""
    network = FeatureModel("tf_efficientnet_lite0", precision="float32", device="cpu")
    pixels = stacked(network.decode([path.read_bytes() for path in sorted(photographs.rglob("*.jpg"))]))
    assert pixels is not None
    features: Features = network.features(pixels).cpu().numpy()
    assert features.shape == (40, 1280)
    return features


def bits_of(found: LinearHash, features: Features) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    return np.unpackbits(found.codes(features), axis=1).astype(bool)


def quantisation_error(found: LinearHash, features: Features) -> float:
    """ITQ's own measure: the squared distance of projections from the corners of the cube, summed in float64."""
    projections = found.projections(features).astype(np.float64)
    return float(((np.where(projections > 0, 1.0, -1.0) - projections) ** 2).sum())


@rotations
@pytest.mark.parametrize("bits", [16, 128, 200])
def test_planes_are_orthonormal_within_each_rotation_of_128(method: str, bits: int) -> None:
    planes = fit(method, clustered(), bits).planes
    assert planes.shape == (bits, 200)
    for start in range(0, bits, 128):
        rotation = planes[start : start + 128]
        assert np.allclose(rotation @ rotation.T, np.eye(len(rotation)), atol=1e-5)
    if bits > 128:
        assert np.abs(planes[:128] @ planes[128:].T).max() > 0.05, "a further rotation is of the same directions"


@rotations
def test_planes_span_the_directions_of_the_greatest_variance(method: str) -> None:
    sample = clustered()
    unit = normalised(sample).astype(np.float64)
    variances, directions = np.linalg.eigh(np.cov(unit.T))
    greatest = directions[:, np.argsort(-variances)[:16]]
    planes = fit(method, sample, 16).planes.astype(np.float64)
    assert np.allclose(np.linalg.norm(planes @ greatest, axis=1), 1, atol=1e-4)


@pytest.mark.parametrize("bits", [16, 64])
def test_itq_has_less_quantisation_error_than_a_random_rotation(bits: int, real: Features) -> None:
    for sample in (clustered(), real):
        itq = quantisation_error(fit("itq", sample, bits), sample)
        pca = [quantisation_error(fit("pca", sample, bits, seed), sample) for seed in range(4)]
        assert itq < min(pca)


def test_itq_keeps_neighbours_better_than_random_hyperplanes(real: Features) -> None:
    def right(method: str, seed: int) -> float:
        codes = fit(method, real, 32, seed).codes(real)
        distances = np.bitwise_count(codes[:, None] ^ codes[None]).sum(-1).astype(int)
        np.fill_diagonal(distances, 10_000)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :3]
        return float((nearest // 4 == np.arange(40)[:, None] // 4).mean())

    itq, lsh = (np.mean([right(method, seed) for seed in range(3)]) for method in ("itq", "lsh"))
    assert itq > lsh


@rotations
def test_more_bits_than_the_sample_spans_are_further_rotations(method: str, real: Features) -> None:
    found = fit(method, real, 256)
    assert found.planes.shape == (256, 1280)
    assert np.allclose(np.linalg.norm(found.planes, axis=1), 1, atol=1e-4)
    # 40 images about their mean span 39 directions.
    assert np.linalg.matrix_rank(found.planes, tol=1e-3) == 39
    for start in range(0, 256, 39):
        rotation = found.planes[start : start + 39]
        assert np.allclose(rotation @ rotation.T, np.eye(len(rotation)), atol=1e-4)
    assert len(np.unique(found.codes(real), axis=0)) == 40


@rotations
@pytest.mark.parametrize("n", [1, 2, 8])
def test_too_small_a_sample_is_refused(method: str, n: int) -> None:
    with pytest.raises(InvalidRequest, match=f"its {n} images span only {n - 1} directions; fit to more"):
        fit(method, clustered(n), 64)
    assert fit(method, clustered(9), 64).bits == 64


@rotations
def test_sample_of_few_distinct_images_is_refused(method: str) -> None:
    with pytest.raises(InvalidRequest, match=r"its 300 images span only \d directions"):
        fit(method, np.repeat(clustered(3), 100, axis=0), 64)


def test_unknown_method_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"method: unknown value 'pcaa'; use one of lsh, centred"):
        fit("pcaa", clustered(), 64)


@pytest.mark.parametrize("method", METHODS)
def test_hash_depends_on_the_seed(method: str) -> None:
    sample = clustered()
    first = fit(method, sample, 64, 5, "made by")
    assert fit(method, sample, 64, 5, "made by").to_bytes() == first.to_bytes()
    other = fit(method, sample, 64, 6, "made by")
    assert other.digest != first.digest
    assert not np.array_equal(other.codes(sample), first.codes(sample))


@pytest.mark.parametrize("method", ["centred", "itq", "pca"])
def test_bits_are_balanced_for_a_sample_far_from_zero(method: str) -> None:
    sample = clustered() + 20 * np.random.default_rng(1).standard_normal(200).astype(np.float32)
    shares = bits_of(fit(method, sample, 64), sample).mean(axis=0)
    assert abs(shares.mean() - 0.5) < 0.05
    assert np.abs(shares - 0.5).mean() < 0.15
    skewed = bits_of(fit("lsh", sample, 64), sample).mean(axis=0)
    assert np.abs(skewed - 0.5).mean() > 0.4, "the sample shows nothing unless plain hyperplanes fail on it"


def test_centred_hyperplanes_are_those_of_lsh_moved_to_the_mean() -> None:
    sample = clustered()
    mean = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    found = fit("centred", sample, 64, seed=3)
    assert np.abs(found.projections(mean[None])).max() < 1e-4
    assert np.array_equal(found.planes, fit("lsh", sample, 64, seed=3).planes)
    # The digest and the codes of a collection that was made with this seed and mean.
    assert found.digest == drawn(200, 64, 3, mean).digest
    assert np.array_equal(found.codes(sample), drawn(200, 64, 3, mean).codes(sample))


def test_the_mean_of_a_sample_splits_it_evenly() -> None:
    sample = np.random.default_rng(0).normal(3, 1, (2_000, 64)).astype(np.float32)
    shares = bits_of(fit("centred", sample, 64), sample).mean(axis=0)
    assert np.abs(shares - 0.5).max() < 0.1


@rotations
def test_scale_of_features_does_not_change_the_hash(method: str) -> None:
    sample = clustered()
    first = fit(method, sample, 32)
    # Powers of two scale floats exactly, so all of it is the same to the last bit.
    for scale in (2.0**-10, 2.0**10):
        scaled = fit(method, sample * np.float32(scale), 32)
        assert scaled.digest == first.digest
        assert np.array_equal(scaled.codes(sample), first.codes(sample))
    lengths = np.random.default_rng(3).choice([0.25, 1, 8], (len(sample), 1)).astype(np.float32)
    assert fit(method, sample * lengths, 32).digest == first.digest


@rotations
def test_rotation_keeps_the_canonical_text_of_its_features(method: str) -> None:
    found = fit(method, clustered(), 64, features="timm:a 12 pooled")
    assert (found.method, found.features, found.is_normalised) == (method, "timm:a 12 pooled", True)


def test_image_outside_the_sample_is_nearest_to_its_class(real: Features) -> None:
    held_out = np.arange(3, 40, 4)
    sample = np.delete(real, held_out, axis=0)
    found = fit("itq", sample, 64)
    distances = np.bitwise_count(found.codes(real[held_out])[:, None] ^ found.codes(sample)[None]).sum(-1)
    assert np.array_equal(distances.argmin(axis=1) // 3, np.arange(10))


def test_fitted_hash_file_keeps_the_canonical_text() -> None:
    sample = np.random.default_rng(0).standard_normal((200, 64)).astype(np.float32)
    for method in ("centred", "pca", "itq"):
        found = from_bytes(fit(method, sample, 32, features="this network").to_bytes(), "test")
        assert found.features == "this network", method
