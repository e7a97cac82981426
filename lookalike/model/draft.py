"""Owns a record as a coordinator receives it, not yet checked."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A record as a client sent it.

    Attributes:
        key: The record's key.
        image: An image file; None if the client sent a code.
        code: A code of bits/8 bytes; None if the client sent an image.
        attributes: A JSON object; empty for none.
        features: The features as little-endian float32, which only a record with a code may have; may be empty.
        thumbnail: A JPEG, PNG or WebP file; may be empty.
    """

    key: str
    image: bytes | None
    code: bytes | None
    attributes: str
    features: bytes = b""
    thumbnail: bytes = b""
