"""Owns what is stored about an image's file besides its code: its size, format and digest, and a perceptual hash
of the picture. They say which of several copies is the best, and which are equal byte by byte."""

from __future__ import annotations

import dataclasses
import hashlib

import imagehash
from PIL import ExifTags, Image

from encoder.images import MAX_PIXELS, open_image
from encoder.thumbnails import reduced
from lookalike.files.kinds import HEAD_BYTES, format_of_head

_HASH_SIDE = 8
_HASHED_SIDE = 128
# The EXIF orientations that swap width and height.
_TURNED = (5, 6, 7, 8)


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """Facts of one image file.

    Attributes:
        width: Of the upright picture, in pixels.
        height: Of the upright picture, in pixels.
        bytes: The size of the file.
        format: Pillow's name of the format; JXL for JPEG XL.
        sha256: The digest of the file's bytes, in hexadecimal.
        phash: A 64-bit perceptual hash of the upright picture, in hexadecimal: `imagehash.phash`, computed on a
            reduced picture, which may change a few bits.
    """

    width: int
    height: int
    bytes: int
    format: str
    sha256: str
    phash: str


def facts(data: bytes, max_pixels: int = MAX_PIXELS) -> Facts:
    """The facts of an image file. See `facts_and_picture`."""
    return facts_and_picture(data, max_pixels)[0]


def facts_and_picture(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[Facts, Image.Image]:
    """Decodes an image file once.

    Args:
        data: The file's bytes.
        max_pixels: The most pixels that the image may have.

    Returns:
        The file's facts; and the upright RGB picture, reduced, from which `encoder.thumbnails.small_jpeg` makes a
        thumbnail.

    Raises:
        UnreadableImage: If the image has too many pixels, or a format that is not supported.
        Exception: Any error of Pillow, if the image cannot be decoded.
    """
    with open_image(data, max_pixels) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in _TURNED:
            width, height = height, width
        format = image.format or format_of_head(data[:HEAD_BYTES])
        picture = reduced(image)
    return (
        Facts(
            width=width,
            height=height,
            bytes=len(data),
            format=format,
            sha256=hashlib.sha256(data).hexdigest(),
            phash=_phash(picture),
        ),
        picture,
    )


def _phash(picture: Image.Image) -> str:
    grey = picture.convert("L")
    # imagehash resizes to 32 pixels a side, for which the smaller picture has detail enough.
    grey = grey.reduce(max(1, min(grey.size) // _HASHED_SIDE))
    return str(imagehash.phash(grey, hash_size=_HASH_SIDE))
