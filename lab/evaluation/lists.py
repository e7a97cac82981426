"""Owns options with several values, separated by commas."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lookalike.model.errors import InvalidRequest


def listed(field: str, text: str, may_be_empty: bool = False) -> list[str]:
    """The values, each once. Raises InvalidRequest, naming the field, if there are none."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts and not may_be_empty:
        raise InvalidRequest(f"{field}: is empty; name at least one")
    return parts


def among(field: str, text: str, known: Sequence[str]) -> list[str]:
    """The values, which must be known. Raises InvalidRequest."""
    parts = listed(field, text)
    for part in parts:
        if part not in known:
            raise InvalidRequest(f"{field}: unknown value {part!r}; use {', '.join(known)}")
    return parts


def integer(field: str, text: str) -> int:
    """One value as a whole number. Raises InvalidRequest."""
    if not re.fullmatch(r"\d{1,10}", text) or int(text) >= 2**32:
        raise InvalidRequest(f"{field}: {text!r} is not an integer below 2^32; separate values by commas")
    return int(text)
