"""Image files of every kind, and invalid ones."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pillow_jxl  # registers the format in which files are saved here
import pytest
from PIL import Image, ImageOps

from encoder.images import MAX_PIXELS, Preprocessing, UnreadableImage, decode, truncated_images_allowed

assert pillow_jxl.Encoder
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
        ("JPEG2000", "RGB", 3), ("TIFF", "CMYK", 6), ("AVIF", "RGB", 4), ("AVIF", "RGBA", 4), ("HEIF", "RGB", 4),
        ("HEIF", "RGBA", 4), ("HEIF", "L", 4), ("MPO", "RGB", 3), ("JXL", "RGB", 3), ("JXL", "RGBA", 3),
        ("JXL", "L", 3),
    ],
)  # fmt: skip
def test_formats_and_modes_look_the_same(photograph: Image.Image, kind: str, mode: str, limit: float) -> None:
    expected = decode(saved(photograph.convert("L") if mode == "L" else photograph, "PNG"), PLAIN)
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


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_brightest_value_decides_the_range_of_deep_grey(photograph: Image.Image, bits: int) -> None:
    grey = np.asarray(photograph.convert("L")).astype(np.float64)
    deep = np.round(grey / grey.max() * (2**bits - 1)).astype(np.uint16)
    # The pixels must look the same, whether the values use 8 bits or 16.
    expected = decode(saved(Image.fromarray((grey / grey.max() * 255).round().astype(np.uint8)), "PNG"), PLAIN)
    for kind in ("PNG", "TIFF"):
        assert difference(decode(saved(Image.fromarray(deep), kind), PLAIN), expected) <= 1


def test_value_above_a_range_uses_the_next_one() -> None:
    def grey_of(brightest: int) -> int:
        values = np.full((300, 300), 1_000, np.uint16)
        values[0, 0] = brightest
        return int(decode(saved(Image.fromarray(values), "PNG"), PLAIN)[100, 100, 0])

    assert [grey_of(top) for top in (1_023, 1_024, 4_095, 4_096, 16_383, 16_384, 65_535)] == [
        249, 62, 62, 15, 15, 3, 3,
    ]  # fmt: skip


def test_floats_are_scaled(photograph: Image.Image) -> None:
    grey = photograph.convert("L")
    unit = Image.fromarray((np.asarray(grey) / 255).astype(np.float32))
    assert difference(decode(saved(unit, "TIFF"), PLAIN), decode(saved(grey, "PNG"), PLAIN)) < 12


def test_animation_is_decoded_to_its_first_frame(photograph: Image.Image) -> None:
    other = Image.new("RGB", photograph.size, "red")
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO", "AVIF", "HEIF"):
        data = saved(photograph, kind, save_all=True, append_images=[other, other])
        assert difference(decode(data, PLAIN), decode(saved(photograph, "PNG"), PLAIN)) < 12, kind


def test_ultra_hdr_jpeg_is_decoded_to_its_picture(photograph: Image.Image) -> None:
    """A JPEG with a second picture, which tells by its metadata how much brighter the first may be shown."""
    buffer = io.BytesIO()
    gain = Image.new("RGB", (40, 30), "red")
    note = b'<x:xmpmeta xmlns:hdrgm="http://ns.adobe.com/hdr-gain-map/1.0/" hdrgm:Version="1.0"/>'
    photograph.save(buffer, "MPO", save_all=True, append_images=[gain], xmp=note, quality=95)
    data = buffer.getvalue()
    assert b' hdrgm:Version="' in data
    assert difference(decode(data, PLAIN), decode(saved(photograph, "PNG"), PLAIN)) < 3


@pytest.mark.parametrize("kind", ["JPEG", "HEIF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_undone(photograph: Image.Image, orientation: int, kind: str) -> None:
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
    assert difference(decode(saved(turned, kind, exif=exif.tobytes(), quality=95), PLAIN),
                      decode(saved(photograph, "PNG"), PLAIN)) < 3  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using JPEG reconstruction")
def test_jpeg_inside_jpeg_xl_is_turned_upright_once(photograph: Image.Image, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as turned:
        data = saved(turned, "JXL")
    assert difference(decode(data, PLAIN), decode(saved(photograph, "PNG"), PLAIN)) < 3


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


def test_heic_that_claims_to_be_small_is_refused() -> None:
    data = saved(Image.new("RGB", (4_000, 3_000), "teal"), "HEIF")
    claim = data.replace(struct.pack(">II", 4_000, 3_000), struct.pack(">II", 40, 30))
    assert claim != data
    with pytest.raises(UnreadableImage, match="4000x3000 exceeds the maximum image size"):
        decode(claim, PLAIN)


@pytest.mark.parametrize("kind", ["HEIF", "JXL", "AVIF"])
def test_pixel_limit_holds_for_every_decoder(kind: str) -> None:
    data = saved(Image.new("RGB", (400, 300), "teal"), kind)
    with pytest.raises(UnreadableImage, match=r"400 x 300 pixels; at most 1,000 .*max_image_megapixels"):
        decode(data, PLAIN, 1_000)


def test_jpeg_xl_is_decoded_in_bounded_memory() -> None:
    data = saved(Image.new("RGB", (8_000, 6_000), "teal"), "JXL", effort=1)
    assert len(data) < 100_000
    with pytest.raises(UnreadableImage, match=r"decoding fails within 514 MiB, the bound for 100,000 pixels"):
        decode(data, PLAIN, 100_000)


def test_truncated_files_are_decoded_as_far_as_they_go_on_request(photograph: Image.Image) -> None:
    expected = decode(saved(photograph, "PNG"), PLAIN)
    for kind in ("JPEG", "PNG", "TIFF"):
        data = saved(photograph, kind)
        cut = data[: len(data) * 9 // 10]
        with truncated_images_allowed(True):
            assert difference(decode(cut, PLAIN), expected) < 25, kind
        with pytest.raises(UnreadableImage, match="is damaged or cut short"):
            decode(cut, PLAIN)
    for kind in ("HEIF", "JXL", "AVIF"):
        data = saved(photograph, kind)
        with truncated_images_allowed(True), pytest.raises(UnreadableImage, match="damaged or cut short"):
            decode(data[: len(data) * 9 // 10], PLAIN)


def test_damaged_heic_is_never_decoded_to_pixels_of_chance(photograph: Image.Image) -> None:
    """In files that lack data in the middle the decoder finds the end too early."""
    data = saved(photograph, "HEIF")
    start = data.index(b"mdat") + 4
    outcomes = set()
    for place in range(start, len(data) - 400, 997):
        damaged = data[:place] + bytes(400) + data[place + 400 :]
        reasons = []
        for is_allowed in (False, True):
            with truncated_images_allowed(is_allowed):
                try:
                    reasons.append(decode(damaged, PLAIN).tobytes())
                except UnreadableImage as error:
                    reasons.append(error.message)
        assert reasons[0] == reasons[1]
        outcomes.add(type(reasons[0]))
    assert outcomes == {str, bytes}


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


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (0.25, 0.5, 0.75, 1), (0, 0, 0.5, 0.4), (0.9, 0.9, 1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_a_box_gives_the_pixels_of_the_cropped_file(
    photograph: Image.Image, mode: str, box: tuple[float, float, float, float]
) -> None:
    picture = photograph.convert(mode)
    edges = [round(share * size) for share, size in zip(box, (picture.width, picture.height) * 2, strict=True)]
    cropped = decode(saved(picture.crop(tuple(edges)), "PNG"), PLAIN)
    assert np.array_equal(decode(saved(picture, "PNG"), PLAIN, box=box), cropped)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_applies_to_the_upright_image(photograph: Image.Image, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(saved(photograph, "PNG", exif=exif))))
    box = (0.1, 0.2, 0.4, 0.9)
    edges = [round(share * size) for share, size in zip(box, (upright.width, upright.height) * 2, strict=True)]
    expected = decode(saved(upright.crop(tuple(edges)), "PNG"), PLAIN)
    assert np.array_equal(decode(saved(photograph, "PNG", exif=exif), PLAIN, box=box), expected)


def test_a_box_of_a_large_jpeg_keeps_its_detail(photograph: Image.Image) -> None:
    large = photograph.resize((photograph.width * 8, photograph.height * 8), Image.Resampling.BICUBIC)
    box = (0.5, 0.5, 0.6, 0.7)
    edges = [round(share * size) for share, size in zip(box, (large.width, large.height) * 2, strict=True)]
    expected = decode(saved(large.crop(tuple(edges)), "PNG"), PLAIN)
    assert difference(decode(saved(large, "JPEG", quality=95), PLAIN, box=box), expected) <= 3


def test_a_tiny_box_has_at_least_one_pixel(photograph: Image.Image) -> None:
    small = photograph.resize((3, 2))
    for box in ((0, 0, 1e-9, 1e-9), (1 - 1e-9, 1 - 1e-9, 1, 1), (0.5, 0.5, 0.5 + 1e-12, 1)):
        assert decode(saved(small, "PNG"), PLAIN, box=box).shape == (224, 224, 3)
    last = decode(saved(small, "PNG"), PLAIN, box=(1 - 1e-9, 1 - 1e-9, 1, 1))
    assert (last == np.asarray(small)[1, 2]).all()
