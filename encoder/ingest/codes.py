"""Owns the formats in which tools write codes, and decodes them.

    packed       bytes, or a list of integers from 0 to 255
    bits         a list of zeros and ones, or bytes that are 0 or 1; the first bit is the highest
    hex          hexadecimal text; a prefix 0x or \\x is accepted
    base64       base64 text, in the standard or the URL alphabet
    bit-text     text of the characters 0 and 1; the first bit is the highest
    int8-offset  a list of integers from -128 to 127: each byte minus 128 (`binary` of sentence-transformers)

A code whose bits do not fill its last byte gets zero bits at the end, as np.packbits does, which changes no
distance."""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import string
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.model.code_kinds import CodeKind
from lookalike.model.errors import InvalidRequest

PACKED, BITS, HEX, BASE64, BIT_TEXT, INT8_OFFSET = FORMATS = (
    "packed", "bits", "hex", "base64", "bit-text", "int8-offset",
)  # fmt: skip
OF_TEXT, OF_LISTS = frozenset((HEX, BASE64, BIT_TEXT)), frozenset((PACKED, BITS, INT8_OFFSET))
Matrix = npt.NDArray[np.uint8]

_BITS_PER_UNIT = {PACKED: 8, BITS: 1, HEX: 4, BASE64: 6, BIT_TEXT: 1, INT8_OFFSET: 8}
_UNITS = {PACKED: "bytes", BITS: "bits", HEX: "hexadecimal digits", BASE64: "characters", BIT_TEXT: "bits",
          INT8_OFFSET: "integers"}  # fmt: skip
INVALID = 255


def _lookup(alphabet: bytes) -> Matrix:
    table = np.full(256, INVALID, np.uint8)
    table[np.frombuffer(alphabet, np.uint8)] = np.arange(len(alphabet), dtype=np.uint8)
    return table


_DIGITS = _lookup(b"0123456789abcdef")
_DIGITS[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)
SEXTETS = _lookup((string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/").encode())
SEXTETS[np.frombuffer(b"-_", np.uint8)] = (62, 63)


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
        """Whether the units do not make whole bytes. Then every code must have exactly `units` units,
        because a code that lacks one could not be told from a valid code."""
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
        match self.format:
            case "hex":
                return self._of_hexadecimal(text)
            case "base64":
                return _decode_base64(text)
            case "bit-text":
                self._require_units(len(text))
                if set(text) - {"0", "1"} or not text:
                    raise InvalidRequest("code: not bit text; use the characters 0 and 1 only")
                return _left_aligned(int(text, 2), len(text))
        raise InvalidRequest(f"code: text, but the table's codes are read as {self.format}; see --code-format")

    def _of_hexadecimal(self, text: str) -> bytes:
        if not self.is_padded:
            with contextlib.suppress(ValueError):  # a prefix, or not hexadecimal
                return bytes.fromhex(text)
        digits = plain_digits(text)
        self._require_units(len(digits))
        if not digits or set(digits) - set(string.hexdigits):
            raise InvalidRequest("code: not hexadecimal; write two digits per byte")
        number, bits = int(digits, 16), 4 * len(digits) - self.dropped
        if number >> bits:
            raise InvalidRequest(f"code: over {self.bits} bits; the first digit of this kind of code is smaller")
        return _left_aligned(number, bits)

    def _of_bytes(self, data: bytes) -> bytes:
        if self.format == PACKED:
            return data
        if self.format in OF_TEXT:
            return self._of_text(data.decode("latin-1"))
        return self._of_numbers(np.frombuffer(data, np.int8 if self.format == INT8_OFFSET else np.uint8))

    def _of_numbers(self, values: list[Any] | npt.NDArray[Any]) -> bytes:
        if self.format == PACKED and isinstance(values, list):
            with contextlib.suppress(ValueError, TypeError):  # not bytes
                return bytes(values)
        numbers = integers_of(values)
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
        if (digits == INVALID).any():
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


def made(format: str, units: int, kind: CodeKind | None = None) -> Reading:
    """Returns the reading of codes of a known format.

    Args:
        format: One of FORMATS.
        units: How many digits, characters, integers or bits each code has.
        kind: The kind of codes, if it is known.
    """
    bits = units * _BITS_PER_UNIT[format]
    if format == HEX and kind is not None:
        bits = kind.bits_of_digits(units)
    if format == BASE64:
        bits -= bits % 8
    return Reading(format, units, bits)


def plain_digits(text: str) -> str:
    """Returns hexadecimal text without spaces and without its prefix."""
    plain = "".join(text.split())
    return plain[2:] if plain.startswith(("0x", "0X", "\\x")) else plain


def integers_of(values: list[Any] | npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    """Returns a list as integers (n,); None if it holds anything else."""
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        return None
    if array.ndim != 1:
        return None
    if array.dtype.kind == "b":
        return array.astype(np.uint8)
    return array if array.dtype.kind in "iu" else None


def _left_aligned(number: int, bits: int) -> bytes:
    """The bits of a number as bytes, with zero bits at the end."""
    return (number << -bits % 8).to_bytes((bits + 7) // 8, "big")


def _decode_base64(text: str) -> bytes:
    standard = text.strip().replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequest("code: not base64, unlike the other codes of the table") from None


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
    sextets = SEXTETS[characters[:, : characters.shape[1] - padding]]
    if padding > 2 or (sextets == INVALID).any() or sextets.shape[1] % 4 == 1:
        return None
    bits = np.unpackbits(sextets[:, :, np.newaxis], axis=2)[:, :, 2:].reshape(len(sextets), -1)
    return np.packbits(bits[:, : bits.shape[1] // 8 * 8], axis=1)
