"""Owns what a thumbnail may be: a small picture that is kept with a record, to show. Known by its first bytes, so
that nothing but a picture is ever handed to a browser."""

from __future__ import annotations

from lookalike.model.errors import InvalidRequest

MAX_THUMBNAIL_BYTES = 10_240
# File endings by format; a format's media type is "image/" and its name.
ENDINGS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


def format_of(picture: bytes) -> str | None:
    """ "jpeg", "png" or "webp"; None for anything else."""
    if picture.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if picture.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if picture[:4] == b"RIFF" and picture[8:12] == b"WEBP":
        return "webp"
    return None


def check_thumbnail(picture: bytes) -> bytes:
    """Return `picture` if it can be a thumbnail, or is empty: none; raise InvalidRequest otherwise."""
    if len(picture) > MAX_THUMBNAIL_BYTES:
        raise InvalidRequest(
            f"thumbnail: has {len(picture):,} bytes; use at most {MAX_THUMBNAIL_BYTES:,}, or leave it out"
        )
    if picture and format_of(picture) is None:
        raise InvalidRequest("thumbnail: is not JPEG, PNG or WebP by its first bytes; use one of these")
    return picture
