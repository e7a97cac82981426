"""Images of every kind that a caller may give, as bytes of a file that the encoder reads."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from encoder.images import Preprocessing, decode
from lookalike import Record, wire
from lookalike.model.errors import InvalidRequest
from lookalike.wire import image_bytes

PLAIN = Preprocessing(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)


def test_bytes_and_paths_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"anything")
    for image in (b"anything", bytearray(b"anything"), tmp_path / "a.jpg", str(tmp_path / "a.jpg")):
        assert image_bytes(image) == b"anything"


@pytest.mark.parametrize("pixels", [PIXELS, PIXELS[:, :, 0], PIXELS[::2, ::-1], np.asfortranarray(PIXELS)])
def test_pixels_survive(pixels: np.ndarray) -> None:
    opened = Image.open(io.BytesIO(image_bytes(pixels)))
    assert np.array_equal(np.asarray(opened), pixels)
    expected = decode(_png(Image.fromarray(np.ascontiguousarray(pixels))), PLAIN)
    assert np.array_equal(decode(image_bytes(pixels), PLAIN), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "YCbCr", "HSV"])
def test_pillow_images_look_as_in_pillow(mode: str) -> None:
    image = Image.fromarray(PIXELS[:, :, 0].astype(np.uint16) * 257) if mode == "I;16" else _rgb().convert(mode)
    opened = Image.open(io.BytesIO(image_bytes(image)))
    assert opened.size == (30, 40)
    assert np.array_equal(
        np.asarray(opened.convert("RGBA")), np.asarray(image.convert("RGB").convert("RGBA"))
    ) or (mode in ("LA", "RGBA", "I;16"))
    if mode in ("LA", "RGBA", "I;16"):
        assert (opened.mode, np.asarray(opened).tolist()) == (mode, np.asarray(image).tolist())


def test_a_pillow_image_is_sent_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    _rgb().save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as turned:
        sent = image_bytes(turned)
        assert turned.size == (30, 40)
    assert np.array_equal(decode(sent, PLAIN), decode((tmp_path / "turned.png").read_bytes(), PLAIN))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (5, "image: is int; give an image file's bytes or its path, a Pillow image, or a uint8 array"),
        (PIXELS.astype(float), r"image: is an array of float64 of shape \(40, 30, 3\)"),
        (PIXELS[0, 0], r"image: is an array of uint8 of shape \(3,\)"),
        (np.zeros((4, 4, 4), np.uint8), r"image: is an array of uint8 of shape \(4, 4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"image: has shape \(0, 4, 3\), no pixels"),
        ("no/such.jpg", "image: 'no/such.jpg' cannot be read: No such file or directory"),
    ],
)
def test_anything_else_is_refused(image: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{message}"):
        image_bytes(image)


def test_a_damaged_pillow_image_is_explained() -> None:
    with pytest.raises(InvalidRequest, match="image: the Pillow image cannot be read"):
        image_bytes(Image.open(io.BytesIO(_png(_rgb())[:200])))


def test_records_and_queries_take_them() -> None:
    assert wire.record_to_wire(Record("k", image=PIXELS)).image == image_bytes(PIXELS)
    assert wire.query_to_wire(_rgb(), None, None).image == image_bytes(_rgb())
    assert wire.record_to_wire(Record("k", code=np.arange(8, dtype=np.uint8))).code == bytes(range(8))


def _rgb() -> Image.Image:
    return Image.fromarray(PIXELS)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
