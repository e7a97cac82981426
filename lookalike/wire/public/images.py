"""Owns how an image that a caller gives becomes the bytes of an image file. Needs no imaging library of its own:
pixels become PPM or PGM files, and a Pillow image saves itself."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.errors import InvalidRequest

# Modes that a PNG file can have. Others are converted to RGB.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
# The number of the EXIF tag for the orientation.
_ORIENTATION = 0x0112
_FORMS = (
    "an image file's bytes or its path, a Pillow image, or a uint8 array (height, width, 3) or (height, width)"
)


def image_bytes(image: Any) -> bytes:
    """Returns an image as the bytes of a file.

    Args:
        image: An image file's bytes, returned as they are, or its path; a Pillow image, which becomes a PNG; or
            pixels, uint8 (height, width, 3) or, for grey, (height, width).

    Raises:
        InvalidRequest: If the image is none of these, or the file cannot be read; then the text names it.
    """
    if isinstance(image, bytes | bytearray | memoryview):
        return bytes(image)
    if isinstance(image, np.ndarray):
        return _file_of_pixels(image)
    if _is_pillow(image):
        return _file_of_pillow(image)
    if not isinstance(image, str | Path):
        raise InvalidRequest(f"image: is {type(image).__name__}; give {_FORMS}")
    try:
        return Path(image).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidRequest(f"image: {str(image)!r} cannot be read: {reason}") from None


def _file_of_pixels(pixels: npt.NDArray[Any]) -> bytes:
    is_grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (is_grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise InvalidRequest(f"image: is an array of {pixels.dtype} of shape {pixels.shape}; give {_FORMS}")
    if not pixels.size:
        raise InvalidRequest(f"image: has shape {pixels.shape}, no pixels; give at least one")
    height, width = pixels.shape[:2]
    return b"P%d %d %d 255\n" % (5 if is_grey else 6, width, height) + pixels.tobytes()


def _is_pillow(image: object) -> bool:
    # A caller that has a Pillow image has imported Pillow.
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _file_of_pillow(image: Any) -> bytes:
    """The image as a PNG file, upright as its EXIF orientation says."""
    from PIL import ImageOps

    try:
        upright = ImageOps.exif_transpose(image) if image.getexif().get(_ORIENTATION) else image
        file = io.BytesIO()
        # The fastest compression: the file is sent once.
        (upright if upright.mode in _PNG_MODES else upright.convert("RGB")).save(file, "PNG", compress_level=1)
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidRequest(f"image: the Pillow image cannot be read: {error}") from None
    return file.getvalue()
