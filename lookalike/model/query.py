"""Owns a query as a coordinator receives it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """What to search for: exactly one of image, code and key is set.

    Attributes:
        image: An encoded image file.
        code: A code, bits/8 bytes.
        key: The key of a stored record.
        projections: The values whose signs are the bits of `code`: float32 little-endian, one per bit. Empty if
            not given, or without a code.
        features: The image's features, which a rerank needs besides `code`: float32 little-endian. Empty if not
            given, or without a code.
    """

    image: bytes | None = None
    code: bytes | None = None
    key: str | None = None
    projections: bytes = b""
    features: bytes = b""
