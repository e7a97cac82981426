"""Owns the pictures of stored records: where they are, and reading them to be edited."""

from __future__ import annotations

from PIL import Image, ImageOps

from encoder.images import MAX_PIXELS, open_image, to_rgb
from encoder.ingest.images import read
from lookalike.model.records import StoredRecord
from lookalike.server.config import LimitsConfig

# Larger pictures are reduced to this before they are edited; networks and thumbnails see less.
_EDITED_SIDE = 640


def picture_of(record: StoredRecord) -> tuple[bytes, str]:
    """A record's thumbnail and the URL of its file; either is empty if there is none."""
    source = record.attributes.get("source")
    url = source.get("url") if isinstance(source, dict) else None
    return record.thumbnail, url if isinstance(url, str) else ""


def read_picture(record: StoredRecord) -> Image.Image | None:
    """Reads a record's file, or its thumbnail if the file cannot be read, as an upright RGB picture of at most
    `_EDITED_SIDE` pixels. None if neither can be read."""
    stored, url = picture_of(record)
    for is_file in (True, False):
        try:
            return opened(read(url, LimitsConfig().max_image_bytes) if is_file else stored)
        except Exception:  # file systems and decoders raise many kinds of errors
            continue
    return None


def opened(data: bytes) -> Image.Image:
    """An image file as an upright RGB picture of at most `_EDITED_SIDE` pixels a side. Raises any error of a
    decoder."""
    with open_image(data, MAX_PIXELS) as image:
        image.draft("RGB", (2 * _EDITED_SIDE, 2 * _EDITED_SIDE))
        picture = to_rgb(ImageOps.exif_transpose(image))
    picture.thumbnail((_EDITED_SIDE, _EDITED_SIDE), reducing_gap=3.0)
    return picture
