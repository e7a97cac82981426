"""Owns the perceptual hashes that codes are compared with. They need no network."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import imagehash
import numpy as np
import numpy.typing as npt
from PIL import Image

PDQ = "PDQ"
PDQ_PACKAGE = "pdqhash"
# PDQ's authors advise not to compare hashes of a lower quality: pictures without details share them.
_PDQ_MIN_QUALITY = 50

Bits = npt.NDArray[np.uint8]
# A hash, uint8 (bits/8,), and whether it may be compared.
Hash = tuple[Bits, bool]


def available() -> Mapping[str, Callable[[Image.Image], Hash]]:
    """The hashes whose packages are installed, by name."""
    found: dict[str, Callable[[Image.Image], Hash]] = {"pHash": _phash, "dHash": _dhash}
    if importlib.util.find_spec(PDQ_PACKAGE) is not None:
        found[PDQ] = _pdq
    return found


def _phash(image: Image.Image) -> Hash:
    return np.packbits(imagehash.phash(image).hash.ravel()), True


def _dhash(image: Image.Image) -> Hash:
    return np.packbits(imagehash.dhash(image).hash.ravel()), True


def _pdq(image: Image.Image) -> Hash:
    import pdqhash  # type: ignore[import-not-found,import-untyped,unused-ignore]  # optional, not a dependency

    bits, quality = pdqhash.compute(np.asarray(image))
    return np.packbits(np.asarray(bits, np.uint8)), quality >= _PDQ_MIN_QUALITY
