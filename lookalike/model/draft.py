"""Owns a record as a coordinator receives it, not yet checked."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Draft:
    """A record as a client sent it.

    Attributes:
        key: The record's key.
        image: An encoded image file; or
        code: A code, bits/8 bytes.
        attributes: A JSON object; empty for none.
        features: float32 little-endian, with a code; may be empty.
        thumbnail: A JPEG, PNG or WebP file; may be empty.
    """

    key: str
    image: bytes | None
    code: bytes | None
    attributes: str
    features: bytes = b""
    thumbnail: bytes = b""
