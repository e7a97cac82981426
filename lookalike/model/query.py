"""Owns what a search is about: the examples that a caller gives, parts of images, and a query as a coordinator
receives it."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.model.errors import InvalidRequest

if TYPE_CHECKING:
    import PIL.Image

# A search with over this many examples, or as many to avoid, is refused.
MAX_EXAMPLES = 100

Image: TypeAlias = "bytes | str | Path | npt.NDArray[np.uint8] | PIL.Image.Image"
"""An image file's bytes or its path, a Pillow image, or pixels: uint8 (height, width, 3), or (height, width) for
grey."""

Code: TypeAlias = "bytes | npt.NDArray[np.uint8]"
"""A packed code: bits / 8 bytes, or uint8 (bits/8,)."""

Box: TypeAlias = tuple[float, float, float, float]
"""A part of an image: (x0, y0, x1, y1), as shares of its width and height, from 0 (left, top) to 1 (right,
bottom), with x0 < x1 and y0 < y1. Rotations in EXIF come first; edges are rounded to whole pixels."""

_EDGES = ("x0", "y0", "x1", "y1")


@dataclasses.dataclass(frozen=True, slots=True)
class Example:
    """What hits are to be like, or not to be like. Give exactly one of image, code and key.

    Args:
        image: An image; see `Record`.
        code: A packed code: bits / 8 bytes.
        key: The key of a stored record, which is left out of the hits.
        box: The part of the image to use: (x0, y0, x1, y1) as shares of its width and height, after the rotation
            that its EXIF data requests.
    """

    image: Image | None = None
    code: Code | None = None
    key: str | None = None
    box: Box | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What to search for: exactly one of image, code, key and like is set.

    Attributes:
        image: An encoded image file.
        code: A code, bits/8 bytes.
        key: The key of a stored record.
        projections: The values whose signs are the bits of `code`: float32 little-endian, one per bit. Empty if
            not given, or without a code.
        features: The image's features, which a rerank needs besides `code`: float32 little-endian. Empty if not
            given, or without a code.
        box: The part of the image to use; None for all of it.
        like: Several examples that hits are to be like, or one if there are some to avoid; each has an image, a
            code or a key.
        not_like: Examples that hits are not to be like. Empty unless `like` is set.
    """

    image: bytes | None = None
    code: bytes | None = None
    key: str | None = None
    projections: bytes = b""
    features: bytes = b""
    box: Box | None = None
    like: tuple[Query, ...] = ()
    not_like: tuple[Query, ...] = ()

    @property
    def parts(self) -> tuple[Query, ...]:
        """The queries that have an image, a code or a key: this one, or its examples."""
        return (*self.like, *self.not_like) if self.like else (self,)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of the records that the query starts from."""
        return frozenset(part.key for part in self.parts if part.key is not None)


def check_box(box: object, subject: str = "box") -> Box:
    """Returns the box. Raises InvalidRequest, naming `subject`, unless it is a part of an image."""
    if not isinstance(box, tuple | list) or len(box) != len(_EDGES):
        raise InvalidRequest(f"{subject}: is {box!r:.80}; give (x0, y0, x1, y1), four numbers from 0 to 1")
    for name, edge in zip(_EDGES, box, strict=True):
        is_number = isinstance(edge, int | float | np.number) and not isinstance(edge, bool)
        if not is_number or math.isnan(edge) or not 0 <= edge <= 1:
            raise InvalidRequest(
                f"{subject}: {name} is {edge!r:.40}; use a share of the image's width or height, from 0 to 1"
            )
    x0, y0, x1, y1 = map(float, box)
    for low, high, name in ((x0, x1, "x"), (y0, y1, "y")):
        if low >= high:
            raise InvalidRequest(
                f"{subject}: {name}0 {low:g} is not below {name}1 {high:g}; give x0 < x1 and y0 < y1"
            )
    return x0, y0, x1, y1
