"""Owns the hash, which turns features into bits, and the hash file. Each bit shows on which side of a hyperplane
the features lie. The hyperplanes are random (LSH for cosine; Charikar 2002) or fitted. This module computes with
plain NumPy; `encoder.model` does the same arithmetic on the device.

Every hash method results in a `LinearHash`, so the encoder, the cluster and the hash file handle only this kind.
`lab.fitting` fits hashes to a sample of images, `lab.training` to labels."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.codespace import MAX_BITS, MIN_BITS
from lookalike.model.errors import CannotStart
from lookalike.model.records import MAX_HASH_BYTES

LSH = "lsh"
# Random hyperplanes are orthogonal within blocks of this size. Orthogonal hyperplanes spread better than
# independent ones (Ji et al., NIPS 2012), but no more than `width` can be orthogonal, and the cost grows with
# the square of their number.
_BLOCK = 1_024
_MAX_WIDTH = 1_000_000

Features = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class LinearHash:
    """The signs of planes @ x + offset, where x is a feature vector, divided by its length if `is_normalised`.

    planes: float32 (bits, width). offset: float32 (bits,). digest: hex SHA-256 over all that decides a code.
        features: a canonical text that describes what computes the features (see `encoder.backbones.Backbone`),
        or "" for any.
        seeded: the seed and mean of random hyperplanes, which the file keeps instead of the planes; None for a
        fitted hash."""

    method: str
    planes: Features
    offset: Features
    digest: str
    is_normalised: bool = False
    features: str = ""
    seeded: tuple[int, Features | None] | None = None

    @property
    def bits(self) -> int:
        return len(self.planes)

    @property
    def width(self) -> int:
        return int(self.planes.shape[1])

    def projections(self, features: Features) -> Features:
        """Projects features, float32 (n, width); returns float32 (n, bits). The sign of a projection is the bit,
        its magnitude is the distance from the hyperplane, where the bit flips."""
        if self.is_normalised:
            features = normalised(features)
        result: Features = features @ self.planes.T + self.offset
        return result

    def codes(self, features: Features) -> npt.NDArray[np.uint8]:
        """Hashes features, float32 (n, width), to packed codes, uint8 (n, bits/8)."""
        return np.packbits(self.projections(features) > 0, axis=1)

    def to_bytes(self) -> bytes:
        """Returns the content of the hash file, which `from_bytes` reads: an .npz archive, the same bytes for the
        same hash. Raises CannotStart if it would be too large."""
        header = {
            "method": self.method,
            "is_normalised": self.is_normalised,
            "features": self.features,
            "seed": self.seeded and self.seeded[0],
            "width": self.width,
            "bits": self.bits,
        }
        arrays: dict[str, npt.NDArray[Any]] = {"header": np.frombuffer(json.dumps(header).encode(), np.uint8)}
        if self.seeded is None:
            arrays |= {"planes": self.planes, "offset": self.offset}
        elif self.seeded[1] is not None:
            arrays["mean"] = self.seeded[1]
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **arrays)
        if file.tell() > MAX_HASH_BYTES:
            raise _too_large(self.bits, self.width)
        return file.getvalue()


def check_size(bits: int, width: int) -> None:
    """Raises CannotStart, before a hash is fitted, if its file would be too large."""
    if bits * width * 4 > MAX_HASH_BYTES:
        raise _too_large(bits, width)


def _too_large(bits: int, width: int) -> CannotStart:
    return CannotStart(
        f"encoder.bits: a hash of {bits:,} bits over {width:,} features takes over {MAX_HASH_BYTES:,} bytes;"
        " use fewer bits, or another layer"
    )


def drawn(width: int, bits: int, seed: int, mean: Features | None = None, features: str = "") -> LinearHash:
    """Returns a hash with random hyperplanes.

    Args:
        width: The number of features.
        bits: The number of hyperplanes.
        seed: Determines the hyperplanes.
        mean: The point that they pass through, float32 (width,), such as the mean of a sample; None for the
            origin.
        features: See `LinearHash`.

    Raises:
        ValueError: If the mean has another width.
    """
    if mean is not None and mean.shape != (width,):
        raise ValueError(f"the mean has shape {mean.shape}, the features have ({width},)")
    planes = _hyperplanes(width, bits, seed)
    offset = np.zeros(bits, np.float32) if mean is None else _through(planes, mean)
    # A digest of the parameters, not of the planes, whose last bits may differ between machines.
    parameters = {
        "width": width,
        "seed": seed,
        "block": _BLOCK,
        "mean": "" if mean is None else hashlib.sha256(mean.astype("<f4").tobytes()).hexdigest(),
    }
    digest = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()
    return LinearHash(LSH, planes, offset, digest, features=features, seeded=(seed, mean))


def fitted(method: str, planes: Features, offset: Features, is_normalised: bool, features: str) -> LinearHash:
    """A hash fitted to data. planes: (bits, width); offset: (bits,); for the other arguments see `LinearHash`."""
    planes, offset = planes.astype("<f4"), offset.astype("<f4")
    text = json.dumps([method, list(planes.shape), is_normalised, features])
    digest = hashlib.sha256(text.encode() + planes.tobytes() + offset.tobytes()).hexdigest()
    return LinearHash(method, planes, offset, digest, is_normalised, features)


def from_bytes(data: bytes, source: str) -> LinearHash:
    """Reads the content of a hash file. Raises CannotStart, naming the source, if `data` is not a hash file."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            arrays = {name: archive[name] for name in archive.files if name != "header"}
        width, bits, seed = int(header["width"]), int(header["bits"]), header["seed"]
        if not (MIN_BITS <= bits <= MAX_BITS and bits % 8 == 0 and 0 < width <= _MAX_WIDTH):
            raise ValueError(f"{bits} bits over {width} features")
        if any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("its arrays are not finite float32")
        if seed is not None:
            return drawn(width, bits, int(seed), arrays.get("mean"), str(header["features"]))
        planes, offset = arrays["planes"], arrays["offset"]
        if planes.shape != (bits, width) or offset.shape != (bits,):
            raise ValueError("its arrays do not have the shapes in its header")
        return fitted(
            str(header["method"]), planes, offset, bool(header["is_normalised"]), str(header["features"])
        )
    except Exception as error:  # a foreign or cut archive fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CannotStart(
            f"{source} is not a hash file ({reason}); make one with `lookalike fit` or `lookalike train`"
        ) from None


def read_hash(path: Path) -> LinearHash:
    """Reads the hash file at a path. Raises CannotStart."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CannotStart(
            f"encoder.hash: {path} cannot be read ({error.strerror}); create it with `lookalike fit` or"
            " `lookalike train`"
        ) from None
    return from_bytes(data, f"encoder.hash: {path}")


def normalised(features: Features) -> Features:
    """Each row divided by its length; a row of zeros stays zero."""
    lengths: Features = np.linalg.norm(features, axis=1, keepdims=True)
    lengths[lengths == 0] = 1
    return features / lengths


def _through(planes: Features, point: Features) -> Features:
    """The offset of planes that pass through a point."""
    offset: Features = -(planes.astype(np.float64) @ point.astype(np.float64)).astype(np.float32)
    return offset


def _hyperplanes(width: int, bits: int, seed: int) -> Features:
    """Returns random hyperplanes, float32 (bits, width): unit rows, orthogonal within blocks. RandomState's stream
    never changes, so a seed gives the same planes with every version of NumPy."""
    random = np.random.RandomState(seed)
    block = min(width, _BLOCK)
    rows = []
    for start in range(0, bits, block):
        gaussian = random.standard_normal((min(block, bits - start), width))
        q, r = np.linalg.qr(gaussian.T)
        rows.append((q * np.sign(np.diag(r))).T.astype(np.float32))
    return np.concatenate(rows)
