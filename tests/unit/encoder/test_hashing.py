"""Hashes and hash files: files round-trip, and invalid ones are refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoder import hashing
from encoder.hashing import Features, LinearHash, drawn, fitted, from_bytes, normalised, read_hash
from lookalike.model.errors import CannotStart

WIDTH = 24


def some_features(n: int = 50) -> Features:
    return np.random.default_rng(1).standard_normal((n, WIDTH)).astype(np.float32)


def a_fitted(**changes: Any) -> LinearHash:
    random = np.random.default_rng(2)
    arguments: dict[str, Any] = {
        "method": "itq",
        "planes": random.standard_normal((32, WIDTH)).astype(np.float32),
        "offset": random.standard_normal(32).astype(np.float32),
        "is_normalised": True,
        "features": "timm:a 12 pooled resize=256",
    }
    return fitted(**(arguments | changes))


HASHES = {
    "drawn": lambda: drawn(WIDTH, 40, 7),
    "drawn about a mean": lambda: drawn(WIDTH, 40, 7, np.linspace(-1, 1, WIDTH, dtype=np.float32)),
    "fitted": a_fitted,
    "fitted, of any length": lambda: a_fitted(is_normalised=False, features=""),
}
every_hash = pytest.mark.parametrize("made", HASHES.values(), ids=HASHES)


@every_hash
def test_hash_file_round_trips(made: Any) -> None:
    first = made()
    second = from_bytes(first.to_bytes(), "a file")
    assert (second.method, second.digest, second.is_normalised, second.features, second.bits, second.width) == (
        first.method, first.digest, first.is_normalised, first.features, first.bits, first.width,
    )  # fmt: skip
    assert np.array_equal(first.planes, second.planes)
    assert np.array_equal(first.offset, second.offset)
    assert np.array_equal(first.codes(some_features()), second.codes(some_features()))
    assert second.to_bytes() == first.to_bytes()


@every_hash
def test_the_same_hash_gives_the_same_bytes_at_any_time(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = made().to_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    assert made().to_bytes() == now


@every_hash
def test_the_signs_of_projections_are_the_codes(made: Any) -> None:
    features, found = some_features(), made()
    projections, codes = found.projections(features), found.codes(features)
    assert projections.dtype == np.float32
    assert codes.shape == (50, found.bits // 8)
    assert np.array_equal(np.unpackbits(codes, axis=1).astype(bool), projections > 0)
    rows = normalised(features) if found.is_normalised else features
    for row, values in zip(rows.astype(np.float64), projections, strict=True):
        expected = [sum(plane * row) + offset for plane, offset in zip(found.planes, found.offset, strict=True)]
        assert np.allclose(values, expected, atol=1e-4)


def test_only_a_normalised_hash_ignores_lengths() -> None:
    features = some_features()
    assert np.array_equal(a_fitted().codes(features), a_fitted().codes(features * 8))
    plain = a_fitted(is_normalised=False)
    assert not np.array_equal(plain.codes(features), plain.codes(features * 8))


def test_a_row_of_zeros_has_a_code() -> None:
    zeros = np.zeros((1, WIDTH), np.float32)
    assert np.array_equal(a_fitted().projections(zeros)[0], a_fitted().offset)


def test_file_of_random_hyperplanes_is_small() -> None:
    found = drawn(1_280, 128, 3)
    assert len(found.to_bytes()) < 1_000 < found.planes.nbytes


@pytest.mark.parametrize("at", [(0, 0), (31, WIDTH - 1)])
def test_digest_changes_with_one_value_of_a_plane(at: tuple[int, int]) -> None:
    planes = a_fitted().planes.copy()
    planes[at] = -planes[at]
    assert a_fitted(planes=planes).digest != a_fitted().digest


@pytest.mark.parametrize(
    "changes",
    [{"method": "pca"}, {"is_normalised": False}, {"features": "another"}, {"offset": np.zeros(32, np.float32)}],
    ids=lambda changes: next(iter(changes)),
)
def test_digest_covers_all_that_decides_a_code(changes: dict[str, Any]) -> None:
    assert a_fitted(**changes).digest != a_fitted().digest


def test_digest_of_random_hyperplanes_is_stable() -> None:
    # Fingerprints of existing collections depend on it: a change makes their codes unusable.
    assert drawn(1280, 256, 0).digest == "cd8c84fb22447f947f149298843784b77d1197afc7f71ea4396c8592c5bce4f8"
    assert drawn(1280, 256, 1).digest != drawn(1280, 256, 0).digest != drawn(1281, 256, 0).digest
    assert drawn(1280, 256, 0, np.ones(1280, np.float32)).digest != drawn(1280, 256, 0).digest


def archive(header: object = None, **arrays: Any) -> bytes:
    """A hash file with this in its header and its arrays."""
    usual = {"method": "itq", "is_normalised": True, "features": "", "seed": None, "width": WIDTH, "bits": 32}
    if isinstance(header, dict) or header is None:
        header = usual | (header or {})
    content = {"planes": a_fitted().planes, "offset": a_fitted().offset} | arrays
    kept = {name: array for name, array in content.items() if array is not None}
    file = io.BytesIO()
    np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **kept)
    return file.getvalue()


def npy(array: Any, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def with_values(array: Features, value: float) -> Features:
    changed = array.copy()
    changed.flat[-1] = value
    return changed


FOREIGN = {
    "empty": b"",
    "text": b"these are no planes\n",
    "a picture": b"\xff\xd8\xff\xe0" + bytes(200),
    "an array": npy(np.zeros((32, WIDTH), np.float32)),
    "another archive": b"PK\x03\x04" + bytes(60),
    "a pickle": pickle.dumps({"planes": [1, 2, 3]}),
    "pickled planes": archive(planes=np.array([{"a": 1}], object)),
    "a pickled array": npy(np.array([{"a": 1}], object), allow_pickle=True),
    "cut by a byte": a_fitted().to_bytes()[:-1],
    "cut in half": a_fitted().to_bytes()[: len(a_fitted().to_bytes()) // 2],
    "a damaged byte": a_fitted().to_bytes().replace(a_fitted().planes.tobytes()[:8], b"\x01" * 8),
    "NaN in planes": archive(planes=with_values(a_fitted().planes, np.nan)),
    "infinite offset": archive(offset=with_values(a_fitted().offset, np.inf)),
    "NaN in the mean": archive({"seed": 1}, planes=None, offset=None, mean=np.full(WIDTH, np.nan, np.float32)),
    "float64": archive(planes=a_fitted().planes.astype(np.float64)),
    "no planes": archive(planes=None),
    "no offset": archive(offset=None),
    "planes of another width": archive(planes=a_fitted().planes[:, 1:]),
    "fewer planes": archive(planes=a_fitted().planes[:24]),
    "a shorter offset": archive(offset=a_fitted().offset[:1]),
    "planes on end": archive(planes=a_fitted().planes.ravel()),
    "a mean of another width": archive({"seed": 1}, planes=None, offset=None, mean=np.ones(3, np.float32)),
    "an odd number of bits": archive({"bits": 33}),
    "too few bits": archive({"bits": 8, "seed": 1}),
    "too many bits": archive({"bits": 8_200, "seed": 1}),
    "no width": archive({"width": 0, "seed": 1}),
    "a negative seed": archive({"seed": -1}),
    "a header of words": archive({"bits": "many"}),
    "a header that is no object": archive([1, 2]),
}


def test_base_archive_of_the_invalid_files_is_valid() -> None:
    assert from_bytes(archive(features=None), "a file").bits == 32
    assert from_bytes(archive({"seed": 1}), "a file").method == "lsh"


@pytest.mark.parametrize("data", FOREIGN.values(), ids=FOREIGN)
def test_invalid_hash_file_error_is_one_line(data: bytes) -> None:
    with pytest.raises(CannotStart) as refused:
        from_bytes(data, "encoder.hash: a.npz")
    message = refused.value.message
    assert message.startswith("encoder.hash: a.npz is not a hash file (")
    assert message.endswith("make one with `lookalike fit` or `lookalike train`")
    assert "\n" not in message
    assert len(message) < 400


def test_truncated_hash_file_is_refused() -> None:
    data = drawn(WIDTH, 40, 7, np.ones(WIDTH, np.float32)).to_bytes()
    for length in range(0, len(data), 13):
        with pytest.raises(CannotStart):
            from_bytes(data[:length], "a file")


def test_pickles_are_not_executed(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "sprung",)

    for data in (
        pickle.dumps(Trap()),
        npy(np.array([Trap()], object), allow_pickle=True),
        archive(planes=np.array([Trap()], object)),
    ):
        with pytest.raises(CannotStart):
            from_bytes(data, "a file")
    assert not (tmp_path / "sprung").exists()


def test_hash_too_large_for_a_message_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(a_fitted().to_bytes())
    monkeypatch.setattr(hashing, "MAX_HASH_BYTES", size)
    assert len(a_fitted().to_bytes()) == size
    monkeypatch.setattr(hashing, "MAX_HASH_BYTES", size - 1)
    with pytest.raises(CannotStart, match=f"32 bits over 24 features takes over {size - 1:,} bytes; use"):
        a_fitted().to_bytes()


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "hash.npz"
    with pytest.raises(CannotStart, match=r"encoder.hash: .*hash.npz cannot be read \(No such file"):
        read_hash(path)
    with pytest.raises(CannotStart, match="cannot be read"):
        read_hash(tmp_path)
    path.write_bytes(a_fitted().to_bytes())
    assert read_hash(path).digest == a_fitted().digest
    path.write_bytes(b"")
    with pytest.raises(CannotStart, match=r"hash.npz is not a hash file"):
        read_hash(path)
