"""The facts of an image file: upright size, format, digest and perceptual hash."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pillow_jxl  # noqa: F401  # registers the format
import pytest
from PIL import Image, ImageOps

from encoder.file_facts import facts, facts_and_picture
from encoder.images import UnreadableImage, to_rgb
from encoder.thumbnails import small_jpeg, thumbnail
from lab.demo.photographs import bundled_photographs


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    """A colour photograph of 900 x 600 pixels."""
    path = next(one.path for one in bundled_photographs() if one.name == "chelsea")
    with Image.open(path) as image:
        return image.convert("RGB").resize((900, 600))


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "HEIF", "JXL"])
def test_facts_describe_the_file(photograph: Image.Image, kind: str) -> None:
    data = file_of(photograph, kind)
    found = facts(data)
    assert (found.width, found.height, found.bytes, found.format) == (900, 600, len(data), kind)
    assert found.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_facts_are_those_of_the_upright_picture(photograph: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = file_of(photograph, "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    found = facts(data)
    assert (found.width, found.height) == upright.size
    assert imagehash.hex_to_hash(found.phash) - imagehash.phash(upright) <= 4


@pytest.mark.parametrize("side", [1, 40, 300, 900, 2_500])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_hash_of_the_reduced_picture_differs_in_few_bits(
    photograph: Image.Image, side: int, kind: str
) -> None:
    data = file_of(photograph.resize((side, side)), kind)
    with Image.open(io.BytesIO(data)) as whole:
        expected = imagehash.phash(whole)
    assert imagehash.hex_to_hash(facts(data).phash) - expected <= 4


def test_transparent_and_deep_pictures_are_hashed_as_they_are_encoded() -> None:
    values = np.random.default_rng(0).integers(0, 4_096, (8, 8), np.uint16).repeat(40, 0).repeat(40, 1)
    deep = Image.fromarray(values)
    clear = Image.fromarray(np.dstack([values >> 4] * 3 + [values >> 4]).astype(np.uint8), "RGBA")
    for image in (deep, clear):
        expected = imagehash.phash(to_rgb(image.copy()))
        assert imagehash.hex_to_hash(facts(file_of(image, "PNG")).phash) - expected <= 4


def test_one_decoding_gives_the_same_thumbnail(photograph: Image.Image) -> None:
    data = file_of(photograph, "JPEG")
    _, picture = facts_and_picture(data)
    assert small_jpeg(picture) == thumbnail(io.BytesIO(data))


def test_limits_hold() -> None:
    with pytest.raises(UnreadableImage, match="at most 99"):
        facts(file_of(Image.new("L", (10, 10)), "PNG"), 99)
    with pytest.raises(UnreadableImage, match="not an image"):
        facts(Path(__file__).read_bytes())
