"""Features of image sets that are kept on disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from encoder.features import FeatureModel
from lab.datasets import load_dataset
from lab.feature_cache import bytes_per_image, features_of, folder_in, is_cached
from lookalike.model.errors import InvalidRequest


def test_a_damaged_cache_file_is_encoded_again(photographs: Path, tmp_path: Path) -> None:
    images = load_dataset(str(photographs), data=tmp_path, limit=6)
    network = FeatureModel("tf_efficientnet_lite0", device="cpu")

    def features() -> np.ndarray[tuple[int, int], np.dtype[np.floating]]:
        return np.array(features_of(images, network, tmp_path, lambda _: None))

    first = features()
    (path,) = (tmp_path / "features").iterdir()
    content = path.read_bytes()
    for damaged in (b"", content[: len(content) // 2], b"not an array"):
        path.write_bytes(damaged)
        assert np.array_equal(features(), first)
        assert path.read_bytes() == content


def test_a_set_is_known_to_be_cached_and_its_size_is_known_before(photographs: Path, tmp_path: Path) -> None:
    images = load_dataset(str(photographs), data=tmp_path, limit=6)
    network = FeatureModel("tf_efficientnet_lite0", device="cpu")
    assert not is_cached(images, network, tmp_path)
    features_of(images, network, tmp_path, lambda _: None)
    assert is_cached(images, network, tmp_path)
    (path,) = folder_in(tmp_path).iterdir()
    assert path.stat().st_size == pytest.approx(6 * bytes_per_image(network), abs=200)


def test_too_little_space_is_refused_before_encoding(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = load_dataset(str(photographs), data=tmp_path, limit=6)
    network = FeatureModel("tf_efficientnet_lite0", device="cpu")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=6 * bytes_per_image(network) - 1))
    with pytest.raises(InvalidRequest, match=r"cache: the features need 0\.0 GB, .* has 0\.0 free; name another"):
        features_of(images, network, tmp_path, lambda _: None)
    assert list(folder_in(tmp_path).iterdir()) == []
