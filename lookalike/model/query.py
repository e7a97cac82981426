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
        projections: float32 little-endian, bits values, with a code; may be empty.
        features: float32 little-endian, with a code; may be empty.
    """

    image: bytes | None = None
    code: bytes | None = None
    key: str | None = None
    projections: bytes = b""
    features: bytes = b""
