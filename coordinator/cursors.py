"""Owns the form of cursors: bytes as text, with a mark that tells the kinds of cursors apart, and a checksum."""

from __future__ import annotations

import base64
import zlib

from lookalike.model.errors import InvalidRequest


def seal(mark: bytes, content: bytes) -> str:
    """Returns a cursor with this content. mark: one byte, for its kind."""
    text = mark + content
    return base64.urlsafe_b64encode(text + zlib.crc32(text).to_bytes(4, "big")).decode()


def unseal(mark: bytes, cursor: str, field: str, source: str) -> bytes:
    """Returns a cursor's content.

    Args:
        mark: As in `seal`.
        cursor: The cursor.
        field: The request's field.
        source: What cursors of this kind come with.

    Raises:
        InvalidRequest: If the text is not a cursor of this kind.
    """
    try:
        data = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except ValueError:
        data = b""
    text, checksum = data[:-4], data[-4:]
    if not text.startswith(mark) or zlib.crc32(text).to_bytes(4, "big") != checksum:
        raise InvalidRequest(
            f"{field}: {cursor[:40]!r} is not a cursor that {source} came with; leave it out to start again"
        )
    return text[len(mark) :]
