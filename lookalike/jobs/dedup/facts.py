"""Owns what is known of the files of a collection's records, as columns: Python objects for millions of records
would not fit into memory."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_DIGEST_BYTES = 32
_NO_DIGEST = bytes(_DIGEST_BYTES)
_MAX_UINT32 = 2**32 - 1
_MAX_UINT64 = 2**64 - 1


@dataclasses.dataclass(frozen=True, slots=True)
class FileFacts:
    """Facts of n records' files, see `encoder.file_facts`. What a record does not say is 0.

    Attributes:
        versions: uint64 (n,), the records' versions: older records have smaller ones.
        widths: uint32 (n,), in pixels.
        heights: uint32 (n,), in pixels.
        sizes: uint64 (n,), in bytes.
        digests: uint8 (n, 32), SHA-256.
        phashes: uint64 (n,), perceptual hashes whose first bit is the highest.
    """

    versions: npt.NDArray[np.uint64]
    widths: npt.NDArray[np.uint32]
    heights: npt.NDArray[np.uint32]
    sizes: npt.NDArray[np.uint64]
    digests: npt.NDArray[np.uint8]
    phashes: npt.NDArray[np.uint64]

    def digest(self, row: int) -> bytes:
        """The digest of a record's file; empty if it is unknown."""
        found = self.digests[row].tobytes()
        return b"" if found == _NO_DIGEST else found


class FileFactsBuilder:
    """Collects the facts of records, one after the other."""

    def __init__(self) -> None:
        self._versions, self._widths, self._heights = array("Q"), array("I"), array("I")
        self._sizes, self._phashes = array("Q"), array("Q")
        self._digests = bytearray()

    def add(self, version: int, attributes: str) -> None:
        """Adds a record. attributes: its attributes as JSON text."""
        # Most attributes of records without facts are ruled out without parsing them.
        source = _source(attributes) if '"sha256"' in attributes else {}
        self._versions.append(version)
        self._widths.append(_number(source.get("width"), _MAX_UINT32))
        self._heights.append(_number(source.get("height"), _MAX_UINT32))
        self._sizes.append(_number(source.get("bytes"), _MAX_UINT64))
        self._phashes.append(int.from_bytes(_hexadecimal(source.get("phash"), 8), "big"))
        self._digests += _hexadecimal(source.get("sha256"), _DIGEST_BYTES)

    def extend(self, other: FileFactsBuilder) -> None:
        """Adds the records of another builder."""
        self._versions.extend(other._versions)
        self._widths.extend(other._widths)
        self._heights.extend(other._heights)
        self._sizes.extend(other._sizes)
        self._phashes.extend(other._phashes)
        self._digests += other._digests

    def build(self) -> FileFacts:
        """The columns, in the order in which the records were added."""
        return FileFacts(
            np.frombuffer(self._versions, np.uint64),
            np.frombuffer(self._widths, np.uint32),
            np.frombuffer(self._heights, np.uint32),
            np.frombuffer(self._sizes, np.uint64),
            np.frombuffer(self._digests, np.uint8).reshape(-1, _DIGEST_BYTES),
            np.frombuffer(self._phashes, np.uint64),
        )


def _source(attributes: str) -> Mapping[str, Any]:
    found = json.loads(attributes).get("source")
    return found if isinstance(found, dict) else {}


def _number(value: object, most: int) -> int:
    """A count that a record states; 0 for anything else, because users may write any attributes."""
    return value if type(value) is int and 0 <= value <= most else 0


def _hexadecimal(text: object, size: int) -> bytes:
    """`size` bytes that a record states in hexadecimal; zeros for anything else."""
    if isinstance(text, str) and len(text) == 2 * size:
        try:
            return bytes.fromhex(text)
        except ValueError:
            return bytes(size)
    return bytes(size)
