"""Owns thumbnails: small JPEG files that fit into a record, or into a page as data URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps

from encoder.images import MAX_PIXELS, open_image, to_rgb
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES

_SIDE = 192
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
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        small = to_rgb(_shrunk(ImageOps.exif_transpose(image)))
    # Pillow would copy the image's comment, which may have any size, into the thumbnail.
    small.info.clear()
    for side, quality in _ATTEMPTS:
        small.thumbnail((side, side))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= MAX_THUMBNAIL_BYTES:
            break
    return buffer.getvalue()


def data_url(image: bytes, media_type: str = "image/jpeg") -> str:
    """An image file as a data URL."""
    return f"data:{media_type};base64,{base64.b64encode(image).decode()}"


def _shrunk(image: Image.Image) -> Image.Image:
    """Shrinks an image before its conversion to RGB, if pixels of its mode can be averaged."""
    if image.mode in ("RGB", "RGBA", "L", "CMYK"):
        image.thumbnail((_SIDE, _SIDE))
    return image
