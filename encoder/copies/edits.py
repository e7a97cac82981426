"""Owns the edits that people make to pictures before they save them again: crops, a mirror image, compression, and
so on. Copies made by these edits measure how well near-duplicates are found.

An edit takes an upright RGB picture and a random generator, and returns another picture. Its sizes are shares of
the picture's own size, so that an edit does the same to a thumbnail as to a photograph."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]

_SAVED_QUALITY = 90
_LOW_QUALITY = 35
_SHADES = ((255, 255, 255), (0, 0, 0), (128, 128, 128))


def edited(name: str, image: Image.Image, seed: int) -> Image.Image:
    """Returns a copy of a picture.

    Args:
        name: The edit; a key of `EDITS`.
        image: An upright RGB picture.
        seed: Decides where a crop lies, what a watermark says, and so on. Equal seeds give equal copies.
    """
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return EDITS[name](image, rng)


def saved(image: Image.Image, quality: int = _SAVED_QUALITY) -> bytes:
    """The picture as a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def _crop_centre(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _part(image, 0.8, 0.5, 0.5)


def _crop_corner(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _part(image, 0.8, int(rng.integers(2)), int(rng.integers(2)))


def _crop_close(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return _part(image, 0.65, rng.random(), rng.random())


def _part(image: Image.Image, share: float, left: float, top: float) -> Image.Image:
    """The part of a picture whose sides are this share of the picture's. left, top: where it lies, 0 to 1."""
    width, height = (max(1, round(side * share)) for side in image.size)
    x, y = round((image.width - width) * left), round((image.height - height) * top)
    return image.crop((x, y, x + width, y + height))


def _mirror(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.mirror(image)


def _compression(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return Image.open(io.BytesIO(saved(image, _LOW_QUALITY))).convert("RGB")


def _scale(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.resize((max(1, image.width // 2), max(1, image.height // 2)), Image.Resampling.BICUBIC)


def _blur(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(0.01 * max(image.size)))


def _watermark(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    text = "".join(rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 12))
    layer = Image.new("RGBA", image.size)
    font = ImageFont.load_default(max(6, image.width / 8))
    ImageDraw.Draw(layer).text(
        (image.width / 2, image.height * rng.uniform(0.3, 0.7)), text, (255, 255, 255, 150), font, "mm",
        stroke_width=1, stroke_fill=(0, 0, 0, 110),
    )  # fmt: skip
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def _border(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    return ImageOps.expand(image, max(1, round(0.08 * max(image.size))), _SHADES[rng.integers(len(_SHADES))])


def _rotation(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    angle = rng.choice([-1, 1]) * rng.uniform(4, 8)
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=_SHADES[rng.integers(2)])


def _colour(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    warmth = rng.choice([-1, 1]) * rng.uniform(0.06, 0.12)
    red, green, blue = ImageEnhance.Color(image).enhance(rng.choice([0.4, 1.6])).split()
    red, blue = (_times(channel, 1 + share) for channel, share in ((red, warmth), (blue, -warmth)))
    toned = ImageEnhance.Contrast(Image.merge("RGB", (red, green, blue))).enhance(rng.uniform(0.75, 1.25))
    return ImageEnhance.Brightness(toned).enhance(rng.choice([0.75, 1.25]))


def _times(channel: Image.Image, factor: float) -> Image.Image:
    return channel.point([min(255, round(value * factor)) for value in range(256)])


def _screenshot(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture in a window: a bar with a title above it, text below it, and margins."""
    unit = max(image.size) / 20
    dark = bool(rng.integers(2))
    page, ink, bar = ((24, 24, 27), (220, 220, 220), (45, 45, 50)) if dark else ((255,) * 3, (40,) * 3, (225,) * 3)
    width, height = round(image.width + 2 * unit), round(image.height + 6 * unit)
    screen = Image.new("RGB", (width, height), page)
    draw = ImageDraw.Draw(screen)
    font = ImageFont.load_default(max(6, unit))
    draw.rectangle((0, 0, width, 2 * unit), bar)
    for place in range(3):
        draw.ellipse((unit * (0.5 + place), 0.7 * unit, unit * (1.1 + place), 1.3 * unit), _SHADES[2])
    for top in (0.5 * unit, height - 2.4 * unit, height - 1.2 * unit):
        text = "".join(rng.choice(list("abcdefghij klmnopqr stuvw xyz"), 24))
        draw.text((4 * unit if top < unit else unit, top), text, ink, font)
    screen.paste(image, (round(unit), round(3 * unit)))
    return screen


EDITS: Mapping[str, Edit] = MappingProxyType(
    {
        "crop centre": _crop_centre,
        "crop corner": _crop_corner,
        "crop close": _crop_close,
        "mirror": _mirror,
        "compression": _compression,
        "scale": _scale,
        "blur": _blur,
        "watermark": _watermark,
        "border": _border,
        "rotation": _rotation,
        "colour": _colour,
        "screenshot": _screenshot,
    }
)
