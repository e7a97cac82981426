"""Owns what a thumbnail may be: a small image that is stored with a record for display. Its format is recognised
by its first bytes, so that a browser never receives anything but an image."""

from __future__ import annotations

from lookalike.model.errors import InvalidRequest

MAX_THUMBNAIL_BYTES = 10_240
# File extensions by format. A format's media type is "image/" and its name.
ENDINGS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def format_of(image: bytes) -> str | None:
    """ "jpeg", "png" or "webp"; None for anything else."""
    if image.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if image.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if image[:4] == b"RIFF" and image[8:12] == b"WEBP":
        return "webp"
    return None


def check_thumbnail(image: bytes) -> bytes:
    """Returns the image if it can be a thumbnail or is empty (no thumbnail). Raises InvalidRequest otherwise."""
    if len(image) > MAX_THUMBNAIL_BYTES:
        raise InvalidRequest(
            f"thumbnail: has {len(image):,} bytes; use at most {MAX_THUMBNAIL_BYTES:,}, or leave it out"
        )
    if image and format_of(image) is None:
        raise InvalidRequest("thumbnail: is not JPEG, PNG or WebP by its first bytes; use one of these")
    return image
