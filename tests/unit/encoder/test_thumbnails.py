"""Thumbnails are small, upright JPEG files, whatever the image."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.thumbnails import thumbnail
from lookalike.model.thumbnails import MAX_THUMBNAIL_BYTES, check_thumbnail, format_of


def file_of(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    buffer.seek(0)
    return buffer


def noise(mode: str, size: tuple[int, int] = (700, 500)) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], 4), np.uint8)
    return Image.fromarray(values, "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
@pytest.mark.filterwarnings("ignore:.*mode.*:DeprecationWarning")
def test_noise_in_any_mode_fits(mode: str) -> None:
    image = Image.fromarray(np.full((500, 700), 40_000, np.uint16)) if mode == "I;16" else noise(mode)
    picture = thumbnail(file_of(image))
    assert len(check_thumbnail(picture)) <= MAX_THUMBNAIL_BYTES
    assert format_of(picture) == "jpeg"
    with Image.open(io.BytesIO(picture)) as shown:
        assert max(shown.size) <= 192


def test_a_photograph_is_192_pixels_long_and_upright() -> None:
    image = Image.new("RGB", (800, 400), "red")
    image.paste("blue", (0, 0, 400, 400))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    with Image.open(io.BytesIO(thumbnail(file_of(image, "JPEG", exif=exif)))) as shown:
        assert shown.size == (96, 192)
        assert shown.getpixel((48, 20))[2] > 200  # type: ignore[index]
        assert shown.getexif() == {}


def test_image_metadata_is_removed() -> None:
    picture = thumbnail(file_of(Image.new("RGB", (300, 300)), "JPEG", comment=b"home address " * 2_000))
    assert b"home" not in picture
    assert len(picture) < 2_000


def test_small_image_is_not_enlarged() -> None:
    with Image.open(io.BytesIO(thumbnail(file_of(Image.new("RGB", (5, 3)))))) as shown:
        assert shown.size == (5, 3)
