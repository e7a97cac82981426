"""How features are stored and compared."""

from __future__ import annotations

import numpy as np
import pytest

from lookalike.model import features
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing


def vectors(n: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, width)).astype(np.float32) * 30


@pytest.mark.parametrize(("kind", "error"), [("int8", 0.004), ("float16", 0.0004)])
def test_stored_features_keep_their_direction(kind: str, error: float) -> None:
    rows = vectors(50, 640)
    kept = features.unpack(kind, [features.pack(kind, row) for row in rows])
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.abs(kept - unit).max() < error
    assert np.abs(features.cosines(rows[0], kept) - unit @ unit[0]).max() < 4 * error


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_stored_size_is_as_computed(kind: str) -> None:
    packed = features.pack(kind, vectors(1, 77)[0])
    assert (
        len(packed) == features.stored_bytes(kind, 77) == Indexing(features=kind, feature_width=77).feature_bytes
    )


@pytest.mark.parametrize("kind", ["int8", "float16"])
def test_zeros_stay_zeros_and_are_similar_to_nothing(kind: str) -> None:
    kept = features.unpack(kind, [features.pack(kind, np.zeros(8, np.float32))])
    assert features.cosines(vectors(1, 8)[0], kept).tolist() == [0.0]


def test_cosine_is_bit_identical_alone_and_in_a_batch() -> None:
    rows = features.unpack("int8", [features.pack("int8", row) for row in vectors(300, 1_280)])
    query = vectors(2, 1_280)[1]
    alone = [features.cosines(query, rows[at : at + 1])[0] for at in range(len(rows))]
    assert alone == features.cosines(query, rows).tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"123", "have 3 bytes; send 2 float32 values, 8 bytes"), (b"\0\0\0\0\0\0\xc0\x7f", "hold NaN or infinity")],
)
def test_malformed_features_are_rejected(data: bytes, words: str) -> None:
    with pytest.raises(InvalidRequest, match=f"features: {words}"):
        features.read("features", data, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"features": "int4"}, "features: unknown value 'int4'; use one of none"),
        ({"features": "int8", "feature_width": 70_000}, "feature_width: is 70,000"),
        ({"feature_width": 3}, "feature_width: is set without features"),
    ],
)
def test_invalid_feature_storage_is_rejected(options: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidRequest, match=words):
        Indexing(**options)  # type: ignore[arg-type]
