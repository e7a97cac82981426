"""Owns how the format of a column of codes is recognized.

A format is recognized from a sample only if no other format is possible. Otherwise the whole table is refused,
because a wrong format makes codes of another width, whose distances have no meaning."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from encoder.ingest.codes import (
    BASE64,
    BIT_TEXT,
    BITS,
    HEX,
    INT8_OFFSET,
    INVALID,
    PACKED,
    SEXTETS,
    Reading,
    integers_of,
    made,
    plain_digits,
)  # fmt: skip
from lookalike.model.code_kinds import CodeKind
from lookalike.model.codespace import MAX_BITS, MIN_BITS
from lookalike.model.errors import InvalidRequest

SAMPLE_ROWS = 1_024

# A format that is never decoded: the digits may be a decimal number, not a code.
_DECIMAL = "decimal"
# Hexadecimal digits in one case, at least this many of them different, are practically never base64 text.
_CERTAIN_DIGITS = 8
# Hexadecimal digits are not taken for base64 text of a narrower code: 16 digits are a 64-bit hash, not 96 bits.
_MIN_BASE64_BITS = 144
# A value of at least this many bytes, all hexadecimal digits or all 0 or 1, is unlikely to be a packed code.
_TELLING_BYTES = 16


def settle(
    values: Sequence[object],
    column: str,
    *,
    element: str = "",
    format: str | None = None,
    kind: CodeKind | None = None,
    bits: int | None = None,
) -> Reading:
    """Decides how a table's codes are read.

    Args:
        values: Codes of the table's first rows, not None.
        column: The name of the column, for errors.
        element: "int8", "uint8" or "bool", if the file says that lists hold this type.
        format: The format that the user named; None to recognize it.
        kind: The kind of codes, if it is known.
        bits: The width of the collection; None if it does not exist.

    Raises:
        InvalidRequest: If the codes could be in several formats, or are single numbers.
    """
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if 2 * len(numbers) > len(values):
        raise InvalidRequest(
            f"code: column {column!r} holds single numbers such as {numbers[0]}, which do not say how wide codes"
            " are; write codes as hexadecimal text of one width, as format(number, '016x') in Python does for 64"
            " bits"
        )
    if format is not None:
        return made(format, _most_common(_count(format, value) for value in values), kind)
    found = [
        reading
        for reading in _readings(values, element, kind)
        if MIN_BITS <= reading.code_bits <= MAX_BITS or reading.format == _DECIMAL
    ]
    if len(found) < 2:
        return found[0] if found else _fallback(values, kind)
    fitting = [
        reading
        for reading in found
        if reading.format != _DECIMAL
        and (bits is None or reading.code_bits == bits)
        and (kind is None or kind.can_have(reading.bits))
    ]
    if len(fitting) == 1 and (bits, kind) != (None, None):
        return fitting[0]
    raise InvalidRequest(_ambiguity(values[0], column, found, bits))


def padding_note(reading: Reading, column: str) -> str | None:
    """Returns a line that says that codes get zero bits at the end; None if they do not."""
    if reading.code_bits == reading.bits:
        return None
    return (
        f"code: column {column!r} has codes of {reading.bits} bits; {reading.code_bits - reading.bits} zero bits"
        f" at the end make {reading.code_bits}, which changes no distance"
    )


def _ambiguity(value: object, column: str, found: Sequence[Reading], bits: int | None) -> str:
    meanings = " or ".join(
        "a decimal number (not a code)" if reading.format == _DECIMAL
        else f"{reading.format} ({reading.code_bits:,} bits)"
        for reading in found
    )  # fmt: skip
    formats = [reading.format for reading in found if reading.format != _DECIMAL]
    remedy = " or ".join(filter(None, (", ".join(formats[:-1]), formats[-1])))
    width = "" if bits is None else f"; the collection's codes have {bits:,} bits"
    return (
        f"code: column {column!r} is ambiguous: {_shown(value)} may be {meanings}{width};"
        f" say which with --code-format {remedy}"
    )


def _shown(value: object) -> str:
    if isinstance(value, list | np.ndarray):
        first = ", ".join(str(number) for number in value[:8])
        return f"[{first}{', …' if len(value) > 8 else ''}] ({len(value)} numbers)"
    if isinstance(value, str | bytes):
        return f"{value[:24]!r}{'…' if len(value) > 24 else ''} ({len(value)} characters)"
    return repr(value)


def _fallback(values: Sequence[object], kind: CodeKind | None) -> Reading:
    """The reading of a column in which nothing is a code: decoding with it gives each row its own error."""
    format = HEX if values and isinstance(values[0], str) else PACKED
    return made(format, _most_common(_count(format, value) for value in values), kind)


def _readings(values: Sequence[object], element: str, kind: CodeKind | None) -> list[Reading]:
    texts = [value for value in values if isinstance(value, str)]
    if 2 * len(texts) > len(values):
        return _readings_of_texts(texts, kind)
    binary = [value for value in values if isinstance(value, bytes)]
    if 2 * len(binary) > len(values):
        return _readings_of_bytes(binary, kind)
    lists = [value for value in values if isinstance(value, list | np.ndarray)]
    numbers = [found for value in lists if (found := integers_of(value)) is not None and len(found)]
    if all(isinstance(item, bool | np.bool_) for value in lists[:8] for item in value):
        element = "bool"
    return _readings_of_numbers(numbers, element) if numbers else []


def _readings_of_texts(texts: Sequence[str], kind: CodeKind | None) -> list[Reading]:
    digits = [plain for text in texts if not set(plain := plain_digits(text)) - set(string.hexdigits) and plain]
    if 2 * len(digits) <= len(texts):
        encoded = [text.strip().rstrip("=") for text in texts if _is_base64(text)]
        return [made(BASE64, _most_common(map(len, encoded)))] if 2 * len(encoded) > len(texts) else []
    units = _most_common(map(len, digits))
    found = [made(HEX, units, kind)]
    if any(len(plain_digits(text)) < len(text.strip()) for text in texts):
        return found  # a prefix or spaces between bytes prove hexadecimal
    characters = set("".join(digits))
    if characters <= {"0", "1"}:
        found.insert(0, made(BIT_TEXT, units))
    elif characters <= set(string.digits):
        found.append(Reading(_DECIMAL, units, 0))
    has_mixed_case = any(text != text.lower() and text != text.upper() for text in digits)
    is_unlikely = len(characters) >= _CERTAIN_DIGITS and not has_mixed_case
    if units % 4 == 0 and 6 * units >= _MIN_BASE64_BITS and not is_unlikely:
        found.append(made(BASE64, units))
    return found


def _readings_of_bytes(values: Sequence[bytes], kind: CodeKind | None) -> list[Reading]:
    units = _most_common(map(len, values))
    packed = made(PACKED, units)
    present = set(b"".join(values))
    if units < _TELLING_BYTES:
        return [packed]
    if present <= {0, 1}:
        return [packed, made(BITS, units)]
    if present <= set(string.hexdigits.encode()):
        text = _readings_of_texts([value.decode() for value in values], kind)
        return [packed, *text]
    return [packed]


def _readings_of_numbers(numbers: Sequence[npt.NDArray[Any]], element: str) -> list[Reading]:
    units = _most_common(map(len, numbers))
    bits, packed, offset = (made(format, units) for format in (BITS, PACKED, INT8_OFFSET))
    if element == "bool":
        return [bits]
    lowest = np.array([row.min() for row in numbers])
    highest = np.array([row.max() for row in numbers])
    if (lowest < 0).any():
        return [offset if (lowest < 0).sum() >= (highest > 127).sum() else packed]
    if (highest > 127).any():
        return [packed]
    bytes_ = {"int8": [offset], "uint8": [packed]}.get(element, [packed, offset])
    return [bits, *bytes_] if (highest <= 1).all() else bytes_


def _is_base64(text: str) -> bool:
    characters = text.strip().rstrip("=").encode("ascii", "replace")
    return len(characters) % 4 != 1 and bool((SEXTETS[np.frombuffer(characters, np.uint8)] != INVALID).all())


def _count(format: str, value: object) -> int:
    """How many units a value has."""
    if isinstance(value, str):
        return len(plain_digits(value)) if format == HEX else len(value.strip().rstrip("="))
    return len(value) if isinstance(value, bytes | list | np.ndarray) else 0


def _most_common(counts: Iterable[int]) -> int:
    return max(Counter(counts).items(), key=lambda item: (item[1], item[0]), default=(0, 0))[0]
