"""Owns the second opinion on whether two pictures are copies of each other. Pictures that only look alike, such as
two photographs of a beach, have near codes, but their details differ.

Two pictures are copies if they correlate as wholes, which finds blurred and compressed copies; or if parts of one
lie in the other, all moved, turned and scaled alike, and correlate there, which finds crops, borders and
screenshots. For the latter, local features (SIFT, Lowe 2004) are matched, and RANSAC finds the transform that most
matches agree on. All functions are pure."""

from __future__ import annotations

import dataclasses
import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_FEATURES = 150
DESCRIPTOR_BYTES = 128
# The longer side of the small picture that is correlated under a transform. Copies differ in finer detail.
SMALL_SIDE = 64
# The sides of the square that stands for the whole picture.
WHOLE_SIDE = 16

# Features are found at this length of the longer side, in pixels. Thumbnails have 192.
_SIDE = 224
_CONTRAST = 0.02
# The square of Lowe's ratio of the distances of the nearest and the second nearest feature.
_MAX_RATIO = 0.75
_MAX_ERROR_PIXELS = 4.0
_MAX_ITERATIONS = 300
_SCALES = (0.2, 5.0)
_MIN_OVERLAP = 0.3

# Measured on copies and on different pictures: see docs/RETRIEVAL_QUALITY.md, "Near-duplicates".
_MIN_MATCHES = 14
_MIN_CORRELATION = 0.8
_MIN_WHOLE_CORRELATION = 0.98
_MAX_ASPECT_RATIO = 1.1

Descriptors = npt.NDArray[np.uint8]
Points = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True, slots=True)
class Details:
    """What is compared of a picture.

    Attributes:
        whole: The picture in grey, stretched to a square, uint8 (WHOLE_SIDE, WHOLE_SIDE).
        small: The picture in grey, uint8, with a longer side of SMALL_SIDE pixels.
        points: Where its features lie, in pixels of `small`, float32 (features, 2).
        descriptors: The features, uint8 (features, DESCRIPTOR_BYTES); at most MAX_FEATURES.
    """

    whole: Pixels
    small: Pixels
    points: Points
    descriptors: Descriptors

    def mirrored(self) -> Details:
        """The details of the mirror image. In it, a descriptor's 4 x 4 cells are in reverse order across the
        feature's direction, and its 8 directions turn the other way."""
        cells = self.descriptors.reshape(-1, 4, 4, 8)[:, ::-1, :, -np.arange(8) % 8]
        points = self.points.copy()
        points[:, 0] = self.small.shape[1] - 1 - points[:, 0]
        descriptors = np.ascontiguousarray(cells).reshape(-1, DESCRIPTOR_BYTES)
        return Details(self.whole[:, ::-1], np.ascontiguousarray(self.small[:, ::-1]), points, descriptors)


def describe(image: Image.Image) -> Details:
    """Finds the details of an upright picture."""
    grey = np.asarray(image.convert("L"))
    height, width = grey.shape
    large = _resized(grey, _scaled(width, height, _SIDE))
    finder = cv2.SIFT.create(nfeatures=MAX_FEATURES, contrastThreshold=_CONTRAST)
    found, descriptors = finder.detectAndCompute(large, None)
    points = np.array([feature.pt for feature in found[:MAX_FEATURES]], np.float32).reshape(-1, 2)
    if descriptors is None:
        descriptors = np.empty((0, DESCRIPTOR_BYTES), np.float32)
    return Details(
        _resized(grey, (WHOLE_SIDE, WHOLE_SIDE)),
        _resized(grey, _scaled(width, height, SMALL_SIDE)),
        points * np.float32(SMALL_SIDE / _SIDE),
        descriptors[:MAX_FEATURES].astype(np.uint8),
    )


def describe_file(picture: bytes) -> Details:
    """Finds the details of a thumbnail: a JPEG, PNG or WebP file. Raises OSError if it cannot be decoded."""
    with Image.open(io.BytesIO(picture), formats=("JPEG", "PNG", "WEBP")) as image:
        return describe(image)


def is_copy(left: Details, right: Details, any_orientation: bool = False) -> bool:
    """Whether one picture is a copy of the other. any_orientation: or of the other one turned or mirrored."""
    # Equal pictures without details, such as blank pages, correlate with nothing.
    if np.array_equal(left.small, right.small) or _is_part(left, right):
        return True
    if not any_orientation:
        return _is_same_whole(left, right, 0)
    mirrored = left.mirrored()
    wholes = (_is_same_whole(each, right, quarters) for each in (left, mirrored) for quarters in range(4))
    return any(wholes) or _is_part(mirrored, right)


def _is_same_whole(left: Details, right: Details, quarters: int) -> bool:
    """Whether the pictures correlate as wholes if the left one is turned by this many quarters."""
    height, width = left.small.shape if quarters % 2 == 0 else left.small.shape[::-1]
    aspects = (width / height, right.small.shape[1] / right.small.shape[0])
    if max(aspects) > _MAX_ASPECT_RATIO * min(aspects):
        return False
    return correlation(np.rot90(left.whole, quarters).ravel(), right.whole.ravel()) >= _MIN_WHOLE_CORRELATION


def _is_part(left: Details, right: Details) -> bool:
    """Whether a part of one picture lies in the other."""
    rows, columns = _matched(left.descriptors, right.descriptors)
    if len(rows) < _MIN_MATCHES:
        return False
    transform, is_inlier = cv2.estimateAffinePartial2D(
        left.points[rows], right.points[columns], method=cv2.RANSAC,
        ransacReprojThreshold=_MAX_ERROR_PIXELS * SMALL_SIDE / _SIDE, maxIters=_MAX_ITERATIONS, confidence=0.99,
    )  # fmt: skip
    if transform is None or is_inlier.sum() < _MIN_MATCHES:
        return False
    return _overlay_correlation(left.small, right.small, transform) >= _MIN_CORRELATION


def _matched(left: Descriptors, right: Descriptors) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The rows of features that are nearest to each other, and much nearer than the second nearest."""
    if min(len(left), len(right)) < _MIN_MATCHES:
        return np.empty(0, np.intp), np.empty(0, np.intp)
    likeness = _roots(left) @ _roots(right).T
    rows = np.arange(len(likeness))
    columns = likeness.argmax(axis=1)
    best = likeness[rows, columns]
    is_mutual = likeness.argmax(axis=0)[columns] == rows
    likeness[rows, columns] = -1
    is_clear = 1 - best < _MAX_RATIO * (1 - likeness.max(axis=1))
    rows = rows[is_mutual & is_clear]
    return rows, columns[rows]


def _roots(descriptors: Descriptors) -> npt.NDArray[np.float32]:
    """Unit vectors whose products are the Hellinger kernel of descriptors (Arandjelovic and Zisserman 2012)."""
    values = descriptors.astype(np.float32)
    roots: npt.NDArray[np.float32] = np.sqrt(values / np.maximum(values.sum(axis=1, keepdims=True), 1))
    return roots


def _overlay_correlation(left: Pixels, right: Pixels, transform: npt.NDArray[np.float64]) -> float:
    """The correlation of two pictures where `transform` lays the left one over the right one; 0 if they overlap
    too little."""
    scale = float(np.hypot(transform[0, 0], transform[1, 0]))
    if not _SCALES[0] < scale < _SCALES[1]:
        return 0.0
    if scale > 1:
        # Enlarged pixels would lack the detail of the other picture.
        return _overlay_correlation(right, left, cv2.invertAffineTransform(transform))
    size = (right.shape[1], right.shape[0])
    is_covered = cv2.warpAffine(np.full(left.shape, 255, np.uint8), transform, size) == 255
    smaller = min(right.size, left.size * scale * scale)
    if is_covered.sum() < max(_MIN_OVERLAP * smaller, SMALL_SIDE):
        return 0.0
    return correlation(cv2.warpAffine(left, transform, size)[is_covered], right[is_covered])


def correlation(left: npt.NDArray[np.uint8], right: npt.NDArray[np.uint8]) -> float:
    """Pearson's correlation of two rows of values; 0 if one is constant."""
    values = np.stack([left, right]).astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    spread = float(np.prod(np.linalg.norm(values, axis=1)))
    return float(values[0] @ values[1]) / spread if spread else 0.0


def _scaled(width: int, height: int, side: int) -> tuple[int, int]:
    scale = side / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _resized(grey: Pixels, size: tuple[int, int]) -> Pixels:
    does_shrink = size[0] * size[1] < grey.size
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if does_shrink else cv2.INTER_CUBIC))
