"""Owns records as columns, so that many records with codes travel and are checked without an object for each."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lookalike.cluster.rows import slots_of
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import VersionedRecord


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """Strings, end to end.

    Attributes:
        data: The UTF-8 text of all strings.
        ends: int64 (n,), where each string ends in `data`.
    """

    data: bytes
    ends: npt.NDArray[np.int64]

    @classmethod
    def of(cls, strings: Sequence[str]) -> Texts:
        """Joins strings."""
        return cls.joined([string.encode() for string in strings])

    @classmethod
    def joined(cls, pieces: Sequence[bytes]) -> Texts:
        """Joins the UTF-8 text of strings, or other bytes."""
        return cls(b"".join(pieces), np.cumsum(np.fromiter(map(len, pieces), np.int64, len(pieces))))

    @classmethod
    def repeat(cls, string: str, count: int) -> Texts:
        """Returns the same string `count` times."""
        encoded = string.encode()
        return cls(encoded * count, np.arange(1, count + 1, dtype=np.int64) * len(encoded))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """Where each string starts, (n,)."""
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]]) if len(self.ends) else self.ends

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The bytes of each string, (n,)."""
        return np.diff(self.ends, prepend=0)

    def strings(self) -> list[str]:
        """Returns the strings. Raises UnicodeDecodeError if one is not UTF-8."""
        bounds = itertools.pairwise([0, *self.ends.tolist()])
        if self.data.isascii():
            text = self.data.decode()
            return [text[start:end] for start, end in bounds]
        return [self.data[start:end].decode() for start, end in bounds]

    def pieces(self) -> list[bytes]:
        """Returns the UTF-8 text of each string."""
        return [self.data[start:end] for start, end in itertools.pairwise([0, *self.ends.tolist()])]

    @classmethod
    def concat(cls, parts: Sequence[Texts]) -> Texts:
        """Puts columns end to end."""
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0, *(len(part.data) for part in parts)])
        ends = [part.ends + offset for part, offset in zip(parts, offsets.tolist(), strict=False)]
        return cls(b"".join(part.data for part in parts), np.concatenate(ends))

    def take(self, rows: npt.NDArray[np.intp]) -> Texts:
        """Returns the strings with these indices, (m,)."""
        return Texts.cut(self.data, self.starts[rows], self.sizes[rows])

    @classmethod
    def cut(cls, data: bytes, starts: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Texts:
        """Returns parts of a text, given their starts (n,) and their bytes (n,)."""
        ends = np.cumsum(sizes)
        if not len(ends) or not ends[-1]:
            return cls(b"", ends)
        # The source of each byte: its string's start there, plus its distance from the string's start here.
        source = np.repeat(starts - (ends - sizes), sizes)
        source += np.arange(len(source))
        return cls(np.frombuffer(data, np.uint8)[source].tobytes(), ends)

    def slice(self, start: int, end: int) -> Texts:
        """Returns the strings with the indices from `start` to before `end`."""
        first = int(self.ends[start - 1]) if start else 0
        ends = self.ends[start:end] - first
        return Texts(self.data[first : first + int(ends[-1])] if len(ends) else b"", ends)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class CodeColumns:
    """Records with codes, before they have versions.

    Attributes:
        keys: Their keys.
        codes: uint8 (n, bits/8).
        attributes: Their attributes, a JSON object each.
    """

    keys: Texts
    codes: npt.NDArray[np.uint8]
    attributes: Texts

    def __len__(self) -> int:
        return len(self.keys)

    def require_width(self, space: CodeSpace) -> None:
        """Raises InvalidRequest unless the codes have the code space's width."""
        if len(self) and self.codes.shape[1] != space.code_bytes:
            raise InvalidRequest(
                f"code: the columns' codes have {self.codes.shape[1]} bytes, the collection's have"
                f" {space.code_bytes} ({space.bits} bits); send exactly that many"
            )

    def take(self, rows: npt.NDArray[np.intp]) -> CodeColumns:
        """Returns the records with these indices, (m,)."""
        return CodeColumns(self.keys.take(rows), self.codes[rows], self.attributes.take(rows))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class VersionedColumns:
    """Live records without features and thumbnails, as they are stored.

    Attributes:
        columns: Keys, codes and attributes in canonical form.
        ids: uint64 (n,), the ids of the keys.
        versions: uint64 (n,).
        fields: The attributes that the records have, without those inside others. It may name more.
    """

    columns: CodeColumns
    ids: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    fields: Sequence[str]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def slots(self) -> npt.NDArray[np.intp]:
        """The slot of each record, (n,)."""
        return slots_of(self.ids)

    @property
    def size(self) -> int:
        """The approximate number of bytes."""
        columns = self.columns
        return len(columns.keys.data) + columns.codes.nbytes + len(columns.attributes.data)

    def take(self, rows: npt.NDArray[np.intp]) -> VersionedColumns:
        """Returns the records with these indices, (m,)."""
        return VersionedColumns(self.columns.take(rows), self.ids[rows], self.versions[rows], self.fields)

    def records(self) -> list[VersionedRecord]:
        """Returns the records as objects."""
        columns = self.columns
        return [
            VersionedRecord(key, code.tobytes(), attributes, version)
            for key, code, attributes, version in zip(
                columns.keys.strings(),
                columns.codes,
                columns.attributes.strings(),
                self.versions.tolist(),
                strict=True,
            )
        ]


def interleaved(columns: Sequence[Texts]) -> Texts:
    """Joins the strings of each row: the first string of every column, then the second of every column, and so
    on."""
    whole = Texts.concat(columns)
    count, rows = len(columns), len(columns[0])
    order = np.arange(count * rows).reshape(count, rows).T.reshape(-1)
    mixed = whole.take(order)
    return Texts(mixed.data, mixed.ends[count - 1 :: count])


def concat(parts: Sequence[VersionedColumns]) -> VersionedColumns:
    """Puts at least one batch of records end to end. Their codes must have one width."""
    if len(parts) == 1:
        return parts[0]
    columns = CodeColumns(
        Texts.concat([part.columns.keys for part in parts]),
        np.concatenate([part.columns.codes for part in parts]),
        Texts.concat([part.columns.attributes for part in parts]),
    )
    return VersionedColumns(
        columns,
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.versions for part in parts]),
        sorted({name for part in parts for name in part.fields}),
    )


def ids_of(keys: Texts) -> npt.NDArray[np.uint64]:
    """Returns the ids of keys, uint64 (n,)."""
    digests = b"".join([hashlib.blake2b(key, digest_size=8).digest() for key in keys.pieces()])
    return np.frombuffer(digests, ">u8").astype(np.uint64)
