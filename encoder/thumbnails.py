"""Owns small pictures for pages that need nothing else: JPEG data URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps

from encoder.images import FORMATS, to_rgb

_SIDE = 160


def thumbnail(source: Path | IO[bytes]) -> str:
    """A picture, at most 160 pixels a side, as a data URL."""
    buffer = io.BytesIO()
    with Image.open(source, formats=FORMATS) as image:
        image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
        small = to_rgb(ImageOps.exif_transpose(image))
        small.thumbnail((_SIDE, _SIDE))
        small.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
