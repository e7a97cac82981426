"""Owns thumbnails: small JPEG files that fit into a record, or into a page as data URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps

from encoder.images import MAX_PIXELS, open_image, to_rgb
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES

# Twice the side of a thumbnail keeps the detail that resizing needs.
_SHORT_SIDE = 384
# (side, quality), tried in order until the file is small enough. The last pair always gives a small enough file.
_ATTEMPTS = ((192, 80), (192, 60), (192, 40), (128, 40), (64, 30))


def thumbnail(source: Path | IO[bytes], max_pixels: int = MAX_PIXELS) -> bytes:
    """Returns an image as an upright JPEG file of at most 192 pixels a side and MAX_THUMBNAIL_BYTES.

    Args:
        source: The image file.
        max_pixels: The most pixels that the image may have.

    Raises:
        UnreadableImage: If the image has too many pixels, or a format that is not supported.
        Exception: Any error of Pillow, if the image cannot be decoded.
    """
    with open_image(source.read_bytes() if isinstance(source, Path) else source.read(), max_pixels) as image:
        return small_jpeg(reduced(image))


def reduced(image: Image.Image) -> Image.Image:
    """Decodes an opened image: upright, RGB, and with a short side of 384 to 767 pixels if it has more."""
    # JPEG is decoded at a fraction of its size.
    image.draft("RGB", (_SHORT_SIDE, _SHORT_SIDE))
    upright = ImageOps.exif_transpose(image)
    factor = min(upright.size) // _SHORT_SIDE
    # Reducing before the conversion to RGB takes less time, if pixels of the mode can be averaged.
    if factor > 1 and upright.mode in ("RGB", "RGBA", "L", "CMYK"):
        upright = upright.reduce(factor)
    return to_rgb(upright)


def small_jpeg(picture: Image.Image) -> bytes:
    """An RGB picture as a JPEG file of at most 192 pixels a side and MAX_THUMBNAIL_BYTES. Shrinks the picture
    itself."""
    # Pillow would copy the image's comment, which may have any size, into the thumbnail.
    picture.info.clear()
    for side, quality in _ATTEMPTS:
        picture.thumbnail((side, side))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_THUMBNAIL_BYTES:
            break
    return buffer.getvalue()


def data_url(image: bytes, media_type: str = "image/jpeg") -> str:
    """An image file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"
