"""Image files of every kind, and invalid ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from encoder.images import MAX_PIXELS, Preprocessing, UnreadableImage, decode

PLAIN = Preprocessing(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    import skimage

    return Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png").convert("RGB")


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


@pytest.mark.parametrize(
    ("kind", "mode", "limit"),
    [
        ("PNG", "RGB", 0), ("JPEG", "RGB", 3), ("WEBP", "RGB", 5), ("BMP", "RGB", 0), ("TIFF", "RGB", 0),
        ("GIF", "P", 12), ("PNG", "P", 12), ("JPEG", "CMYK", 6), ("PNG", "RGBA", 0), ("PPM", "RGB", 0),
        ("JPEG2000", "RGB", 3), ("TIFF", "CMYK", 6),
    ],
)  # fmt: skip
def test_formats_and_modes_look_the_same(photograph: Image.Image, kind: str, mode: str, limit: float) -> None:
    expected = decode(saved(photograph, "PNG"), PLAIN)
    pixels = decode(saved(photograph.convert(mode), kind), PLAIN)
    assert pixels.shape == (224, 224, 3)
    assert pixels.dtype == np.uint8
    assert difference(pixels, expected) <= limit


def test_sixteen_bit_images_are_scaled_not_clipped(photograph: Image.Image) -> None:
    grey = photograph.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    expected = decode(saved(grey, "PNG"), PLAIN)
    for kind in ("PNG", "TIFF"):
        assert difference(decode(saved(deep, kind), PLAIN), expected) <= 1


def test_floats_are_scaled(photograph: Image.Image) -> None:
    grey = photograph.convert("L")
    unit = Image.fromarray((np.asarray(grey) / 255).astype(np.float32))
    assert difference(decode(saved(unit, "TIFF"), PLAIN), decode(saved(grey, "PNG"), PLAIN)) < 12


def test_animation_is_decoded_to_its_first_frame(photograph: Image.Image) -> None:
    other = Image.new("RGB", photograph.size, "red")
    for kind in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(photograph, kind, save_all=True, append_images=[other, other])
        assert difference(decode(data, PLAIN), decode(saved(photograph, "PNG"), PLAIN)) < 12, kind


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(photograph: Image.Image, orientation: int) -> None:
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT], 3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM], 5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90], 7: [Image.Transpose.TRANSVERSE], 8: [Image.Transpose.ROTATE_270],
    }  # fmt: skip
    turned = photograph
    for step in undo.get(orientation, []):
        turned = turned.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert difference(decode(saved(turned, "JPEG", exif=exif, quality=95), PLAIN),
                      decode(saved(photograph, "PNG"), PLAIN)) < 3  # fmt: skip


def test_transparency_is_on_white() -> None:
    clear = Image.new("RGBA", (300, 300), (0, 0, 0, 0))
    assert decode(saved(clear, "PNG"), PLAIN).min() == 255
    palette = Image.new("P", (300, 300))
    assert decode(saved(palette, "GIF", transparency=0), PLAIN).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (1, 5_000), (5_000, 1), (3, 2)])
def test_tiny_and_thin_images_work(size: tuple[int, int]) -> None:
    assert decode(saved(Image.new("RGB", size, "blue"), "PNG"), PLAIN).shape == (224, 224, 3)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few bytes."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1_000)) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_size() -> None:
    with pytest.raises(UnreadableImage, match=f"30,000 x 30,000 pixels; at most {MAX_PIXELS:,}"):
        decode(png_header(30_000, 30_000), PLAIN)


def test_pixel_limit_is_configurable(photograph: Image.Image) -> None:
    data = saved(photograph, "PNG")
    pixels = photograph.width * photograph.height
    assert decode(data, PLAIN, pixels).shape == (PLAIN.crop, PLAIN.crop, 3)
    with pytest.raises(UnreadableImage, match=f"at most {pixels - 1:,} are decoded"):
        decode(data, PLAIN, pixels - 1)


def test_invalid_image_is_refused_with_the_reason(photograph: Image.Image) -> None:
    jpeg = saved(photograph, "JPEG")
    for data, words in [
        (b"", "is empty"),
        (b"hello, this is text in a file named .jpg", "is not an image file"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", "is not an image file"),
        (jpeg[: len(jpeg) // 2], "is damaged or cut short"),
        (jpeg[:30], "damaged|not an image"),
        (png_header(500, 500), "is damaged or cut short"),
    ]:
        with pytest.raises(UnreadableImage, match=words):
            decode(data, PLAIN)
