"""Features of image sets that are kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from encoder.features import FeatureModel
from lab.datasets import load_dataset
from lab.feature_cache import features_of


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
