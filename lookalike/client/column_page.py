"""Owns a page of a scroll as columns, which become objects only where they are used."""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cluster.listed import Listed
from lookalike.model.records import StoredRecord


class ColumnPage:
    """Part of a scroll, as columns. What was not requested is empty.

    Its records are ordered by id, which is the hash of the key. Iterating over the page makes a `StoredRecord` of
    each; the columns are faster.

    Attributes:
        cursor: Where the next page starts. Empty after the last page.
        warnings: On the first page, what may make it less useful than it seems, as sentences.
    """

    def __init__(self, listed: Listed, cursor: str, warnings: list[str]) -> None:
        self._listed = listed
        self.cursor = cursor
        self.warnings = warnings

    def __len__(self) -> int:
        return len(self._listed)

    @functools.cached_property
    def keys(self) -> list[str]:
        """The records' keys."""
        return self._listed.keys.strings()

    @property
    def versions(self) -> npt.NDArray[np.uint64]:
        """The version of each record, uint64 (n,)."""
        return self._listed.versions

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The packed codes, uint8 (n, bits / 8); (n, 0) if they were not requested."""
        return self._listed.codes

    @property
    def attributes_json(self) -> list[str]:
        """The attributes of each record as JSON text."""
        return self._listed.attributes.strings()

    @functools.cached_property
    def attributes(self) -> list[dict[str, Any]]:
        """The attributes of each record."""
        texts = self._listed.attributes
        if not texts.data:
            return [{} for _ in range(len(self))]
        # One call for all of them takes half as long as one for each.
        found: list[dict[str, Any]] = json.loads(b"[" + b",".join(texts.pieces()) + b"]")
        return found

    @property
    def thumbnails(self) -> list[bytes]:
        """The thumbnail of each record; empty if it has none."""
        return self._listed.thumbnails.pieces()

    def __iter__(self) -> Iterator[StoredRecord]:
        width = self.codes.shape[1]
        packed = self.codes.tobytes()
        codes = (packed[start : start + width] for start in range(0, len(packed), width)) if width else None
        thumbnails = self.thumbnails if self._listed.thumbnails.data else itertools.repeat(b"")
        return map(
            StoredRecord,
            self.keys,
            codes or itertools.repeat(b""),
            self.attributes,
            self.versions.tolist(),
            thumbnails,
        )
