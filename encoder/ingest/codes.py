"""Owns the formats in which tools write codes: recognizes the format of a column, and decodes its values.

    packed       bytes, or a list of integers from 0 to 255
    bits         a list of zeros and ones, or bytes that are 0 or 1; the first bit is the highest
    hex          hexadecimal text; a prefix 0x or \\\\x is accepted
    base64       base64 text, in the standard or the URL alphabet
    bit-text     text of the characters 0 and 1; the first bit is the highest
    int8-offset  a list of integers from -128 to 127: each byte minus 128 (`binary` of sentence-transformers)

A format is recognized from a sample only if no other format is possible. Otherwise the whole table is refused,
because a wrong format makes codes of another width, whose distances have no meaning. A code whose bits do not fill
its last byte gets zero bits at the end, as np.packbits does, which changes no distance."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.code_kinds import CodeKind
from lookalike.model.codespace import MAX_BITS, MIN_BITS
from lookalike.model.errors import InvalidRequest

PACKED, BITS, HEX, BASE64, BIT_TEXT, INT8_OFFSET = FORMATS = (
    "packed", "bits", "hex", "base64", "bit-text", "int8-offset",
)  # fmt: skip
OF_TEXT, OF_LISTS = frozenset((HEX, BASE64, BIT_TEXT)), frozenset((PACKED, BITS, INT8_OFFSET))
# Never decoded: digits that may be a number, not a code.
_DECIMAL = "decimal"
SAMPLE_ROWS = 1_024

Matrix = npt.NDArray[np.uint8]

_BITS_PER_UNIT = {PACKED: 8, BITS: 1, HEX: 4, BASE64: 6, BIT_TEXT: 1, INT8_OFFSET: 8, _DECIMAL: 0}
_UNITS = {PACKED: "bytes", BITS: "bits", HEX: "hexadecimal digits", BASE64: "characters", BIT_TEXT: "bits",
          INT8_OFFSET: "integers"}  # fmt: skip
# A base64 text of these characters only, in one case, is as good as impossible if so many of them differ.
_CERTAIN_DIGITS = 8
# Narrower codes are not written in base64 without padding: 16 digits are a 64-bit hash, not 96 bits.
_MIN_BASE64_BITS = 144
# So many bytes that are all characters or all 0 or 1 are unlikely to be a packed code.
_TELLING_BYTES = 16
_INVALID = 255


def _lookup(alphabet: bytes) -> Matrix:
    table = np.full(256, _INVALID, np.uint8)
    table[np.frombuffer(alphabet, np.uint8)] = np.arange(len(alphabet), dtype=np.uint8)
    return table


_DIGITS = _lookup(b"0123456789abcdef")
_DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
_SEXTETS = _lookup((string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/").encode())
_SEXTETS[np.frombuffer(b"-_", np.uint8)] = (62, 63)


@dataclasses.dataclass(frozen=True, slots=True)
class Reading:
    """How the codes of one column are read.

    Attributes:
        format: One of FORMATS.
        units: How many digits, characters, integers or bits each code has.
        bits: How many bits a code has, before zero bits fill its last byte.
    """

    format: str
    units: int
    bits: int

    @property
    def code_bits(self) -> int:
        """The width of the code in the collection: `bits`, rounded up to a multiple of 8."""
        return self.bits + -self.bits % 8

    @property
    def is_padded(self) -> bool:
        """Whether the units do not make whole bytes. Then every code must have exactly so many units, because
        a code with one too few could not be told from a sound one."""
        return bool(self.units * _BITS_PER_UNIT[self.format] % 8 or self.dropped) and self.format != BASE64

    @property
    def dropped(self) -> int:
        """How many leading zero bits the tool added in front of a number in hexadecimal."""
        return self.units * 4 - self.bits if self.format == HEX else 0

    def decode(self, value: object) -> bytes | None:
        """Returns a value as a packed code; None for None. Raises InvalidRequest if the value is invalid."""
        if value is None:
            return None
        if isinstance(value, str):
            return self._of_text(value)
        if isinstance(value, bytes):
            return self._of_bytes(value)
        if isinstance(value, list | np.ndarray):
            return self._of_numbers(value)
        raise InvalidRequest(f"code: {type(value).__name__} is not accepted; give bytes, or hexadecimal text")

    def decode_matrix(self, units: npt.NDArray[np.integer[Any]]) -> Matrix | None:
        """Returns many codes as uint8 (n, code_bits / 8); None if one of them is invalid.

        Args:
            units: Integers (n, units): bytes, bits, numbers, or ASCII characters.
        """
        if not self._accepts(units.shape[1]):
            return None
        match self.format:
            case "hex":
                return self._of_digits(units.astype(np.uint8, copy=False))
            case "base64":
                return _of_base64(units.astype(np.uint8, copy=False))
            case "bits" | "bit-text":
                flags = units - ord("0") if self.format == BIT_TEXT else units
                return None if ((flags < 0) | (flags > 1)).any() else np.packbits(flags.astype(bool), axis=1)
            case "packed":
                return _in_range(units, 0, 255)
        signed = _in_range(units, -128, 127)
        return None if signed is None else signed ^ np.uint8(0x80)

    def _accepts(self, units: int) -> bool:
        if self.is_padded:
            return units == self.units
        return self.format == BASE64 or units * _BITS_PER_UNIT[self.format] % 8 == 0

    def _require_units(self, units: int) -> None:
        if not self._accepts(units):
            name = _UNITS[self.format]
            wanted = f"the table's codes have {self.units}" if self.is_padded else "they do not make whole bytes"
            raise InvalidRequest(f"code: {units} {name}; {wanted}")

    def _of_text(self, text: str) -> bytes:
        if self.format == HEX:
            digits = _plain_digits(text)
            self._require_units(len(digits))
            try:
                number = int(digits, 16) if digits and not set(digits) - set(string.hexdigits) else -1
            except ValueError:
                number = -1
            if number < 0:
                raise InvalidRequest("code: not hexadecimal; write two digits per byte")
            if number >> (4 * len(digits) - self.dropped):
                raise InvalidRequest(
                    f"code: over {self.bits} bits; the first digit of this kind of code is smaller"
                )
            bits = 4 * len(digits) - self.dropped
            return (number << -bits % 8).to_bytes((bits + 7) // 8, "big")
        if self.format == BASE64:
            try:
                standard = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
                return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
            except (binascii.Error, ValueError):
                raise InvalidRequest("code: not base64; the other codes of the table are") from None
        if self.format == BIT_TEXT:
            self._require_units(len(text))
            if set(text) - {"0", "1"}:
                raise InvalidRequest("code: not bit text; use the characters 0 and 1 only")
            return (int(text, 2) << -len(text) % 8).to_bytes((len(text) + 7) // 8, "big") if text else b""
        raise InvalidRequest(f"code: text, but the table's codes are read as {self.format}; see --code-format")

    def _of_bytes(self, data: bytes) -> bytes:
        if self.format == PACKED:
            return data
        if self.format in OF_TEXT:
            return self._of_text(data.decode("latin-1"))
        return self._of_numbers(np.frombuffer(data, np.int8 if self.format == INT8_OFFSET else np.uint8))

    def _of_numbers(self, values: list[Any] | npt.NDArray[Any]) -> bytes:
        numbers = _integers(values)
        if self.format not in OF_LISTS:
            raise InvalidRequest(
                f"code: a list, but the table's codes are read as {self.format}; see --code-format"
            )
        if numbers is not None:
            self._require_units(len(numbers))
            decoded = self.decode_matrix(numbers[np.newaxis])
            if decoded is not None:
                return decoded.tobytes()
        expected = {
            PACKED: "of bytes; use integers from 0 to 255",
            BITS: "of bits; use 0 and 1",
            INT8_OFFSET: "of signed bytes; use integers from -128 to 127",
        }
        raise InvalidRequest(f"code: a list, but not {expected[self.format]}")

    def _of_digits(self, characters: Matrix) -> Matrix | None:
        digits: Matrix = _DIGITS[characters]
        if (digits == _INVALID).any():
            return None
        if digits.shape[1] % 2:
            digits = np.pad(digits, ((0, 0), (0, 1)))
        packed: Matrix = (digits[:, ::2] << 4 | digits[:, 1::2]).astype(np.uint8, copy=False)
        if not self.dropped:
            return packed
        bits = np.unpackbits(packed, axis=1)
        if bits[:, : self.dropped].any():
            return None
        return np.packbits(bits[:, self.dropped : self.dropped + self.bits], axis=1)


PLAIN = Reading(PACKED, 0, 0)


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
        InvalidRequest: If the codes could be in several formats.
    """
    if format is not None:
        return _made(format, _most_common(_count(format, value) for value in values), kind)
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


def _made(format: str, units: int, kind: CodeKind | None = None) -> Reading:
    bits = units * _BITS_PER_UNIT[format]
    if format == HEX and kind is not None:
        bits = kind.bits_of_digits(units)
    if format == BASE64:
        bits -= bits % 8
    return Reading(format, units, bits)


def _fallback(values: Sequence[object], kind: CodeKind | None) -> Reading:
    """The reading of a column in which nothing is a code: it gives each row its own error."""
    format = HEX if values and isinstance(values[0], str) else PACKED
    return _made(format, _most_common(_count(format, value) for value in values), kind)


def _readings(values: Sequence[object], element: str, kind: CodeKind | None) -> list[Reading]:
    texts = [value for value in values if isinstance(value, str)]
    if 2 * len(texts) > len(values):
        return _readings_of_texts(texts, kind)
    binary = [value for value in values if isinstance(value, bytes)]
    if 2 * len(binary) > len(values):
        return _readings_of_bytes(binary, kind)
    lists = [value for value in values if isinstance(value, list | np.ndarray)]
    numbers = [found for value in lists if (found := _integers(value)) is not None and len(found)]
    if all(isinstance(item, bool | np.bool_) for value in lists[:8] for item in value):
        element = "bool"
    return _readings_of_numbers(numbers, element) if numbers else []


def _readings_of_texts(texts: Sequence[str], kind: CodeKind | None) -> list[Reading]:
    digits = [plain for text in texts if not set(plain := _plain_digits(text)) - set(string.hexdigits) and plain]
    if 2 * len(digits) <= len(texts):
        encoded = [text.strip().rstrip("=") for text in texts if _is_base64(text)]
        return [_made(BASE64, _most_common(map(len, encoded)))] if 2 * len(encoded) > len(texts) else []
    units = _most_common(map(len, digits))
    found = [_made(HEX, units, kind)]
    if any(len(_plain_digits(text)) < len(text.strip()) for text in texts):
        return found  # a prefix or spaces between bytes prove hexadecimal
    characters = set("".join(digits))
    if characters <= {"0", "1"}:
        found.insert(0, _made(BIT_TEXT, units))
    elif characters <= set(string.digits):
        found.append(Reading(_DECIMAL, units, 0))
    has_mixed_case = any(text != text.lower() and text != text.upper() for text in digits)
    is_unlikely = len(characters) >= _CERTAIN_DIGITS and not has_mixed_case
    if units % 4 == 0 and 6 * units >= _MIN_BASE64_BITS and not is_unlikely:
        found.append(_made(BASE64, units))
    return found


def _readings_of_bytes(values: Sequence[bytes], kind: CodeKind | None) -> list[Reading]:
    units = _most_common(map(len, values))
    packed = _made(PACKED, units)
    present = set(b"".join(values))
    if units < _TELLING_BYTES:
        return [packed]
    if present <= {0, 1}:
        return [packed, _made(BITS, units)]
    if present <= set(string.hexdigits.encode()):
        text = _readings_of_texts([value.decode() for value in values], kind)
        return [packed, *text]
    return [packed]


def _readings_of_numbers(numbers: Sequence[npt.NDArray[Any]], element: str) -> list[Reading]:
    units = _most_common(map(len, numbers))
    bits, packed, offset = (_made(format, units) for format in (BITS, PACKED, INT8_OFFSET))
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
    return len(characters) % 4 != 1 and bool((_SEXTETS[np.frombuffer(characters, np.uint8)] != _INVALID).all())


def _plain_digits(text: str) -> str:
    plain = "".join(text.split())
    return plain[2:] if plain.startswith(("0x", "0X", "\\x")) else plain


def _count(format: str, value: object) -> int:
    """How many units a value has."""
    if isinstance(value, str):
        return len(_plain_digits(value)) if format == HEX else len(value.strip().rstrip("="))
    return len(value) if isinstance(value, bytes | list | np.ndarray) else 0


def _most_common(counts: Iterable[int]) -> int:
    return max(Counter(counts).items(), key=lambda item: (item[1], item[0]), default=(0, 0))[0]


def _integers(values: list[Any] | npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """A list as integers (n,); None if it holds anything else."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    if array.ndim != 1:
        return None
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array if array.dtype.kind in "iu" else None


def _in_range(units: npt.NDArray[np.integer[Any]], lowest: int, highest: int) -> Matrix | None:
    """Integers as bytes; None if one is out of range."""
    if lowest < 0 and units.dtype == np.int8:
        return units.view(np.uint8)
    if units.dtype == np.uint8 and lowest == 0:
        return units  # type: ignore[return-value]
    if units.size and (units.min() < lowest or units.max() > highest):
        return None
    return units.astype(np.int16).astype(np.uint8)


def _of_base64(characters: Matrix) -> Matrix | None:
    padding = int((characters == ord("=")).all(axis=0).sum()) if len(characters) else 0
    sextets = _SEXTETS[characters[:, : characters.shape[1] - padding]]
    if padding > 2 or (sextets == _INVALID).any() or sextets.shape[1] % 4 == 1:
        return None
    bits = np.unpackbits(sextets[:, :, np.newaxis], axis=2)[:, :, 2:].reshape(len(sextets), -1)
    return np.packbits(bits[:, : bits.shape[1] // 8 * 8], axis=1)
