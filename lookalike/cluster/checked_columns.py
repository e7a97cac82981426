"""Owns the check of records that arrive as columns: valid ones stay columns, each invalid one gets an error."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import CodeColumns, Texts, ids_of
from lookalike.model.errors import InvalidRequest, LookalikeError
from lookalike.model.records import (
    MAX_ATTRIBUTES_BYTES,
    MAX_ATTRIBUTES_DEPTH,
    MAX_KEY_BYTES,
    attributes_text,
    check_key,
    encode_attributes,
    parse_attributes,
    scan_json,
)

_OPENING = np.isin(np.arange(256), np.frombuffer(b"{[", np.uint8))


@dataclasses.dataclass(frozen=True, slots=True)
class CheckedColumns:
    """Records after the check.

    Attributes:
        rows: The indices of the valid records, (m,).
        columns: The valid records, with attributes in canonical form.
        ids: uint64 (m,), the ids of their keys.
        fields: The attributes that they have, without those inside others.
        errors: By index of each invalid record, why it is invalid.
    """

    rows: npt.NDArray[np.intp]
    columns: CodeColumns
    ids: npt.NDArray[np.uint64]
    fields: list[str]
    errors: Mapping[int, LookalikeError]


def checked(columns: CodeColumns) -> CheckedColumns:
    """Checks the keys and attributes of records."""
    attributes, fields = columns.attributes, set[str]()
    if not attributes.data:
        attributes = Texts.repeat("{}", len(columns))
    elif (found := _fields_if_canonical(attributes)) is not None:
        fields = found
    else:
        return _checked_one_by_one(columns)
    if not _are_keys(columns.keys):
        return _checked_one_by_one(columns)
    valid = dataclasses.replace(columns, attributes=attributes)
    return CheckedColumns(np.arange(len(columns)), valid, ids_of(valid.keys), sorted(fields), {})


def _are_keys(keys: Texts) -> bool:
    sizes = keys.sizes
    return bool(((sizes >= 1) & (sizes <= MAX_KEY_BYTES)).all()) and _is_utf8(keys)


def _is_utf8(texts: Texts) -> bool:
    """Whether each string is UTF-8: the text of all of them is, and none starts within a character."""
    try:
        texts.data.decode()
    except UnicodeDecodeError:
        return False
    starts = texts.starts[texts.sizes > 0]
    return bool((np.frombuffer(texts.data, np.uint8)[starts] & 0xC0 != 0x80).all())


def _fields_if_canonical(attributes: Texts) -> set[str] | None:
    """The names of the attributes; None if a record's are not in canonical form, or may be invalid.

    Encodes the attributes of all records with one call. The result equals the text that arrived only if each
    record's text is canonical: a JSON object has no other JSON object as a prefix.
    """
    nested = np.cumsum(_OPENING[np.frombuffer(attributes.data, np.uint8)])
    depth = np.diff(np.concatenate([[0], nested])[attributes.ends], prepend=0)
    if (
        attributes.sizes.max() > MAX_ATTRIBUTES_BYTES
        or depth.max() > MAX_ATTRIBUTES_DEPTH
        or b"\\u0000" in attributes.data
    ):
        return None
    try:
        texts = attributes.strings()
        scanned = [scan_json(text) for text in texts]
        values = [value for value, _ in scanned]
        if encode_attributes(values) != f"[{','.join(texts)}]":
            return None
    except ValueError:
        return None
    if any(end != len(text) for (_, end), text in zip(scanned, texts, strict=True)):
        return None
    if not all(type(value) is dict for value in values):
        return None
    return set().union(*values)


def _checked_one_by_one(columns: CodeColumns) -> CheckedColumns:
    canonical = functools.cache(lambda text: attributes_text(parse_attributes(text)))
    errors: dict[int, LookalikeError] = {}
    rows, texts = [], []
    for row, (key, text) in enumerate(zip(columns.keys.pieces(), columns.attributes.pieces(), strict=True)):
        try:
            texts.append(_check(key, text, canonical))
            rows.append(row)
        except InvalidRequest as error:
            errors[row] = error
    kept = np.array(rows, np.intp)
    valid = CodeColumns(columns.keys.take(kept), columns.codes[kept], Texts.of(texts))
    fields = {name for text in set(texts) for name in json.loads(text)}
    return CheckedColumns(kept, valid, ids_of(valid.keys), sorted(fields), errors)


def _check(key: bytes, text: bytes, canonical: Callable[[str], str]) -> str:
    """The attributes in canonical form. Raises InvalidRequest."""
    try:
        name = check_key(key.decode())
    except UnicodeDecodeError:
        raise InvalidRequest(f"key: {key[:64]!r} is not UTF-8; use valid Unicode text") from None
    try:
        return canonical(text.decode())
    except UnicodeDecodeError:
        raise InvalidRequest(f"record {name!r}: attributes: are not UTF-8; send JSON as UTF-8 text") from None
    except InvalidRequest as error:
        raise InvalidRequest(f"record {name!r}: {error.message}") from None
