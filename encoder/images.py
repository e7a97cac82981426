"""Owns decoding: from an image file's bytes to the pixels of a network's input.

Supports what cameras and browsers support: animated and multi-picture (first frame), HEIC, 10 to 16 bits, CMYK,
palette, transparent (on white) and EXIF-rotated images. A file's content decides its format. A file that does not
decode raises UnreadableImage with the reason, and no file can make the decoder allocate without bound."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from encoder import jxl
from lookalike.files.kinds import HEAD_BYTES, HEIF, JXL, format_of_head, is_installed, obstacle
from lookalike.model.errors import InvalidRequest
from lookalike.model.query import Box

# Formats whose decoders start no other program (EPS would start Ghostscript), and read the size before the pixels.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")
if is_installed("pillow_heif"):
    import pillow_heif

    # `draft` would decode an embedded thumbnail instead of the picture. Workers decode several images at a time.
    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False, decode_threads=1)
    FORMATS += (HEIF,)
MAX_PIXELS = 100_000_000
# Pillow warns at one size and refuses at another. `decode` has one limit with one message instead.
Image.MAX_IMAGE_PIXELS = None

# The smallest of these that holds the brightest value counts as white.
_WHITE_OF_INTEGERS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_WHITE_OF_FLOATS = (1.0, 255.0)
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
Pixels = npt.NDArray[np.uint8]


class UnreadableImage(InvalidRequest):
    """The bytes are not an image that can be encoded."""


@dataclasses.dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a network expects its input: resize the short side to `resize` pixels, crop the centre to `crop` pixels,
    then compute (pixel / 255 - mean) / std per channel."""

    resize: int
    crop: int
    interpolation: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        """Canonical text; part of the code space."""
        mean, std = (",".join(f"{value:.6g}" for value in values) for values in (self.mean, self.std))
        return f"resize={self.resize} crop={self.crop} {self.interpolation} mean={mean} std={std}"


def decode(
    data: bytes, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS, box: Box | None = None
) -> Pixels:
    """An image file's bytes, or a part of the image, as uint8 (crop, crop, 3), RGB. Raises UnreadableImage."""
    try:
        with open_image(data, max_pixels) as image:
            # JPEG can be decoded at a fraction of its size; twice the target keeps the detail that resizing needs.
            share = 1.0 if box is None else min(box[2] - box[0], box[3] - box[1])
            side = math.ceil(2 * preprocessing.resize / share)
            image.draft("RGB", (side, side))
            upright = ImageOps.exif_transpose(image)
            return _crop(to_rgb(upright if box is None else _part(upright, box)), preprocessing)
    except UnreadableImage:
        raise
    except Exception as error:  # decoders raise many kinds of errors for damaged files
        raise UnreadableImage(f"is damaged or cut short ({type(error).__name__}: {error})") from None


def open_image(data: bytes, max_pixels: int) -> Image.Image:
    """Opens an image file. Except for JPEG XL, its pixels are not decoded yet.

    Raises:
        UnreadableImage: If the file is not in a supported format, or has over `max_pixels` pixels.
        Exception: Any error of a decoder, if the file is damaged.
    """
    if not data:
        raise UnreadableImage("is empty (0 bytes)")
    format = format_of_head(data[:HEAD_BYTES])
    if format and (reason := obstacle(format)):
        raise UnreadableImage(f"cannot be decoded: {reason}")
    try:
        image = jxl.decode(data, max_pixels) if format == JXL else Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        if format:
            raise UnreadableImage(f"is damaged or cut short (its {format} header cannot be read)") from None
        raise UnreadableImage(f"is not an image file in a supported format ({', '.join(FORMATS)})") from None
    width, height = image.size
    if width * height > max_pixels:
        image.close()
        raise UnreadableImage(
            f"has {width:,} x {height:,} pixels; at most {max_pixels:,} are decoded"
            " (limits.max_image_megapixels); scale it down, or raise the limit"
        )
    if image.format == HEIF and ImageFile.LOAD_TRUNCATED_IMAGES:
        # Pillow's plugin would return an image of uninitialised pixels instead of the decoder's error.
        return pillow_heif.open_heif(data, convert_hdr_to_8bit=True).to_pillow()
    return image


@contextlib.contextmanager
def truncated_images_allowed(is_allowed: bool) -> Iterator[None]:
    """While the block runs, the whole process decodes the existing part of files that lack their end."""
    before, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, is_allowed
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def to_rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB: transparency on white, 16 bits scaled to 8."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith(("I", "F")):
        return _deep_to_rgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """Converts 16-bit and 32-bit grey, which Pillow's own conversion would clip at 255. Files do not say how many
    bits their values use, so the brightest value decides: 12-bit data has values up to 4,095."""
    values = np.nan_to_num(np.asarray(image, np.float64))
    brightest = float(values.max(initial=0.0))
    usual = _WHITE_OF_FLOATS if image.mode.startswith("F") else _WHITE_OF_INTEGERS
    white = next((top for top in usual if brightest <= top), brightest)
    scaled = np.clip(values * (255 / white), 0, 255)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")


def _part(image: Image.Image, box: Box) -> Image.Image:
    """The part of an upright image that is in the box, at least one pixel."""
    left, right = _span(box[0], box[2], image.width)
    top, bottom = _span(box[1], box[3], image.height)
    return image.crop((left, top, right, bottom))


def _span(low: float, high: float, size: int) -> tuple[int, int]:
    first = min(round(low * size), size - 1)
    return first, max(first + 1, round(high * size))


def _crop(image: Image.Image, preprocessing: Preprocessing) -> Pixels:
    """Resizes and crops in one step. Only the pixels that are kept are computed, so that a very thin image is not
    enlarged to millions of columns."""
    width, height = image.size
    side = min(width, height) * preprocessing.crop / preprocessing.resize
    left, top = (width - side) / 2, (height - side) / 2
    small = image.resize(
        (preprocessing.crop, preprocessing.crop),
        _FILTERS[preprocessing.interpolation],
        box=(left, top, left + side, top + side),
        reducing_gap=3.0,
    )
    return np.asarray(small, np.uint8)
