"""The formats of codes: which are recognized, which are refused, and what they decode to."""

from __future__ import annotations

import base64
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from encoder.ingest.code_recognition import padding_note, settle
from encoder.ingest.codes import FORMATS, Reading
from encoder.ingest.columns import _codes
from lookalike.model.code_kinds import KINDS
from lookalike.model.errors import InvalidRequest

RNG = np.random.default_rng(9)
PACKED = RNG.integers(0, 256, (20, 16), np.uint8)
BITS = np.unpackbits(PACKED, axis=1)
CODES = [row.tobytes() for row in PACKED]
SIGNED = (PACKED ^ 0x80).view(np.int8)
VALUES: dict[str, list[Any]] = {
    "packed": CODES,
    "bits": BITS.tolist(),
    "hex": [code.hex() for code in CODES],
    "base64": [base64.b64encode(code).decode() for code in CODES],
    "bit-text": ["".join(map(str, row)) for row in BITS],
    "int8-offset": SIGNED.tolist(),
}


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_decodes_to_the_same_codes(format: str) -> None:
    reading = settle(VALUES[format], "code", format=format)
    assert reading.code_bits == 128
    assert [reading.decode(value) for value in VALUES[format]] == CODES


@pytest.mark.parametrize("format", FORMATS)
def test_a_column_decodes_as_its_rows_do(format: str) -> None:
    column = pa.array(VALUES[format])
    reading = settle(VALUES[format], "code", format=format)
    assert _codes(column, reading).tolist() == PACKED.tolist()
    # A part of a column, as batches of a file are.
    assert _codes(column.slice(3, 5), reading).tolist() == PACKED[3:8].tolist()


@pytest.mark.parametrize("format", ["packed", "hex", "base64", "int8-offset"])
def test_an_unambiguous_format_is_recognized(format: str) -> None:
    assert settle(VALUES[format], "code").format == format


@pytest.mark.parametrize(
    ("values", "format"),
    [
        ([row.tolist() for row in PACKED], "packed"),
        (BITS.astype(bool).tolist(), "bits"),
        (list(BITS.astype(bool)), "bits"),
        (["0x" + code.hex() for code in CODES], "hex"),
        (["\\x" + "01" * 16], "hex"),
        ([code.hex().upper() for code in CODES], "hex"),
        ([base64.urlsafe_b64encode(code).decode().rstrip("=") for code in CODES], "base64"),
        ([*(code.hex() for code in CODES), "broken", "0101"], "hex"),
    ],
)
def test_other_forms_are_recognized(values: list[Any], format: str) -> None:
    reading = settle(values, "code")
    assert reading.format == format
    if len(values) >= len(CODES):
        assert [reading.decode(value) for value in values[: len(CODES)]] == CODES


@pytest.mark.parametrize(
    ("values", "readings", "remedy"),
    [
        (VALUES["bit-text"], ["bit-text (128 bits)", "hex (512 bits)"], "--code-format bit-text"),
        (VALUES["bits"], ["bits (128 bits)", "packed (1,024 bits)"], "--code-format bits"),
        ([bytes(row) for row in BITS], ["packed (1,024 bits)", "bits (128 bits)"], "--code-format packed"),
        ([code.hex().encode() for code in CODES], ["packed (256 bits)", "hex (128 bits)"], "--code-format packed"),
        ([[1, 2, 3, 4, 5, 6, 7, 127]], ["packed (64 bits)", "int8-offset (64 bits)"], "packed or int8-offset"),
        (["1234567890123456"], ["hex (64 bits)", "a decimal number"], "--code-format hex"),
        (["deadbeef" * 8], ["hex (256 bits)", "base64 (384 bits)"], "--code-format hex or base64"),
        (["A" * 64], ["hex (256 bits)", "base64 (384 bits)"], "--code-format hex or base64"),
        (["aBcDeFaB" * 8], ["hex (256 bits)", "base64 (384 bits)"], "--code-format hex or base64"),
    ],
)
def test_an_ambiguous_format_is_refused_with_readings_and_remedy(
    values: list[Any], readings: list[str], remedy: str
) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        settle(values, "hash")
    text = str(refusal.value)
    assert "column 'hash' is ambiguous" in text
    assert all(reading in text for reading in readings)
    assert remedy in text
    assert text.count("--code-format") == 1


def test_the_collections_width_resolves_an_ambiguity() -> None:
    text = ["".join(map(str, row)) for row in BITS[:, :64]]
    assert settle(text, "code", bits=64) == Reading("bit-text", 64, 64)
    assert settle(text, "code", bits=256) == Reading("hex", 64, 256)
    assert settle(VALUES["bits"], "code", bits=128).format == "bits"
    with pytest.raises(InvalidRequest, match="the collection's codes have 512 bits"):
        settle(text, "code", bits=512)
    # Both readings have 64 bits: the width says nothing.
    with pytest.raises(InvalidRequest, match="packed or int8-offset"):
        settle([[1, 2, 3, 4, 5, 6, 7, 8]], "code", bits=64)


@pytest.mark.parametrize(("element", "format"), [("uint8", "packed"), ("int8", "int8-offset")])
def test_the_type_of_lists_resolves_an_ambiguity(element: str, format: str) -> None:
    small = [[1, 2, 3, 4, 5, 6, 7, 127]]
    assert settle(small, "code", element=element).format == format
    with pytest.raises(InvalidRequest, match="bits"):
        settle(VALUES["bits"], "code", element=element)


def test_the_kind_resolves_an_ambiguity() -> None:
    bits = RNG.integers(0, 2, (3, 256)).tolist()
    assert settle(bits, "code", kind=KINDS["pdq"]).format == "bits"
    assert settle(["deadbeef" * 8], "code", kind=KINDS["pdq"]).format == "hex"
    # 64 digits of phash are a hash_size of 8 or of 16.
    with pytest.raises(InvalidRequest, match="ambiguous"):
        settle(["01" * 32], "code", kind=KINDS["phash"])


@pytest.mark.parametrize("size", [5, 8, 9, 10, 11])
def test_hashes_of_imagehash_keep_their_distances(size: int) -> None:
    pictures = [Image.fromarray(RNG.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(6)]
    hashes = [imagehash.phash(picture, hash_size=size) for picture in pictures]
    reading = settle([str(found) for found in hashes], "phash", kind=KINDS["phash"], format="hex")
    assert reading.bits == size * size
    assert reading.code_bits % 8 == 0
    codes = [reading.decode(str(found)) for found in hashes]
    assert codes == [np.packbits(found.hash.flatten()).tobytes() for found in hashes]
    distances = [_distance(codes[0], code) for code in codes]
    assert distances == [hashes[0] - found for found in hashes]


def test_colorhash_in_hexadecimal_equals_its_bits() -> None:
    pictures = [Image.fromarray(RNG.integers(0, 256, (32, 32, 3), np.uint8)) for _ in range(4)]
    hashes = [imagehash.colorhash(picture) for picture in pictures]
    texts = [str(found) for found in hashes]
    assert {len(text) for text in texts} == {11}
    reading = settle(texts, "colorhash", kind=KINDS["colorhash"])
    assert (reading.bits, reading.code_bits) == (42, 48)
    expected = [np.packbits(found.hash.flatten()).tobytes() for found in hashes]
    assert [reading.decode(text) for text in texts] == expected
    assert _codes(pa.array(texts), reading).tolist() == [list(code) for code in expected]
    assert _codes(pa.array([*texts, "f" * 11]), reading) is None
    with pytest.raises(InvalidRequest, match="over 42 bits"):
        reading.decode("f" * 11)


@pytest.mark.parametrize(
    ("format", "value", "reason"),
    [
        ("hex", "zz" * 16, "not hexadecimal"),
        ("hex", "abc", "3 hexadecimal digits; they do not make whole bytes"),
        ("hex", [1, 2], "a list, but the table's codes are read as hex"),
        ("base64", "?" * 24, "not base64"),
        ("bit-text", "0121" * 32, "not bit text"),
        ("bit-text", "0101010", "7 bits; they do not make whole bytes"),
        ("bits", [0, 1, 2] + [0] * 125, "not of bits"),
        ("packed", [256] * 16, "not of bytes"),
        ("packed", [-1] * 16, "not of bytes"),
        ("packed", "00" * 16, "text, but the table's codes are read as packed"),
        ("packed", [1.5] * 16, "not of bytes"),
        ("int8-offset", [128] * 16, "not of signed bytes"),
        ("packed", 1.5, "float is not accepted"),
    ],
)
def test_a_wrong_value_is_refused_by_itself(format: str, value: Any, reason: str) -> None:
    reading = settle(VALUES[format], "code", format=format)
    with pytest.raises(InvalidRequest, match=reason):
        reading.decode(value)


def test_padding_is_said_aloud() -> None:
    assert padding_note(settle(["0123456789abcdef012345678"], "phash"), "phash") == (
        "code: column 'phash' has codes of 100 bits; 4 zero bits at the end make 104, which changes no distance"
    )
    assert padding_note(settle(VALUES["hex"], "phash"), "phash") is None


def test_a_code_with_a_digit_too_few_or_too_many_is_refused() -> None:
    """A padded code with one digit more would have as many bytes."""
    reading = settle(["0123456789abcdef012345678"] * 3, "code")
    assert (reading.bits, reading.code_bits) == (100, 104)
    for digits in (24, 26):
        with pytest.raises(InvalidRequest, match=f"{digits} hexadecimal digits; the table's codes have 25"):
            reading.decode("a" * digits)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(PACKED.tolist(), pa.list_(pa.uint8())),
        pa.array(PACKED.tolist(), pa.large_list(pa.int64())),
        pa.array(PACKED.tolist(), pa.list_(pa.uint8(), 16)),
        pa.ExtensionArray.from_storage(
            pa.fixed_shape_tensor(pa.uint8(), [4, 4]), pa.array(PACKED.tolist(), pa.list_(pa.uint8(), 16))
        ),
        pa.array(CODES, pa.binary(16)),
    ],
)
def test_every_arrow_type_of_bytes_is_a_column(column: pa.Array) -> None:
    reading = settle(column.to_pylist(), "code", element="uint8")
    assert _codes(column, reading).tolist() == PACKED.tolist()
    assert _codes(column.slice(7), reading).tolist() == PACKED[7:].tolist()


def test_base64_with_and_without_padding_does_not_become_columns() -> None:
    """Both texts have 24 characters, for 16 and for 18 bytes."""
    column = pa.array([VALUES["base64"][0], base64.b64encode(bytes(range(18))).decode()])
    assert _codes(column, Reading("base64", 22, 128)) is None


def test_a_column_with_null_rows_does_not_become_columns() -> None:
    """flatten() would drop the null row and shift all later codes by one."""
    column = pa.array([PACKED[0].tolist(), None, PACKED[2].tolist()], pa.list_(pa.uint8(), 16))
    assert _codes(column, Reading("packed", 16, 128)) is None


@pytest.mark.parametrize(
    ("column", "format"),
    [
        (pa.array(["zz" * 16] * 2), "hex"),
        (pa.array(["01" * 64, "02" * 64]), "bit-text"),
        (pa.array(["?" * 24] * 2), "base64"),
        (pa.array([[0, 2] * 64] * 2), "bits"),
        (pa.array([[0, 300] * 8] * 2), "packed"),
        (pa.array([[0, None] * 8] * 2), "packed"),
        (pa.array([[0, 1] * 8, [1]]), "packed"),
        (pa.array([[-129] * 16] * 2), "int8-offset"),
        (pa.array(["00" * 16] * 2), "packed"),
        (pa.array([[1] * 16] * 2), "hex"),
    ],
)
def test_a_column_with_an_invalid_code_is_left_to_the_rows(column: pa.Array, format: str) -> None:
    assert _codes(column, settle(VALUES[format], "code", format=format)) is None


def _distance(first: bytes | None, second: bytes | None) -> int:
    assert first is not None
    assert second is not None
    return (int.from_bytes(first) ^ int.from_bytes(second)).bit_count()


@pytest.mark.parametrize("format", [None, "hex"])
def test_single_numbers_are_no_codes(format: str | None) -> None:
    with pytest.raises(InvalidRequest, match=r"column 'phash' holds single numbers such as 17, .*'016x'"):
        settle([17, 2**63, None], "phash", format=format)
