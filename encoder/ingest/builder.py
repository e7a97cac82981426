"""Owns how table rows with codes or features become records of one collection."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from encoder.hashing import Features, LinearHash, from_bytes
from encoder.ingest.rows import Precomputed
from lookalike.cluster.columns import CodeColumns
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.indexing import Indexing
from lookalike.model.records import Record, attributes_text, check_code

Invalid = Callable[[Precomputed, str], None]


class RecordBuilder:
    """Builds records for a collection of this code space and indexing. hash_file: the collection's hash file;
    empty if the collection keeps no hash."""

    def __init__(self, space: CodeSpace, indexing: Indexing, hash_file: bytes) -> None:
        self._space = space
        self._indexing = indexing
        self._hash_file = hash_file
        self._hash: LinearHash | None = None

    def takes_columns(self, columns: CodeColumns) -> bool:
        """Whether the collection takes the columns as they are, so that no record must be built."""
        return columns.codes.shape[1] == self._space.code_bytes and not self._indexing.keeps_features

    def build(self, rows: Sequence[Precomputed], invalid: Invalid) -> list[Record]:
        """Returns the records of these rows.

        Args:
            rows: Rows with a code, or with features to hash.
            invalid: Called with each row that cannot be a record of the collection, and the reason.

        Raises:
            InvalidRequest: If a row has no code, and the collection keeps no hash to compute one with.
        """
        records = []
        for row in self._with_codes(rows, invalid):
            try:
                assert row.code is not None
                check_code(row.code, self._space, "the row")
                attributes_text(row.fields)
                records.append(
                    Record(
                        row.key, code=row.code, attributes=row.fields, features=self._kept_features(row),
                        thumbnail=row.thumbnail,
                    )
                )  # fmt: skip
            except InvalidRequest as error:
                invalid(row, error.message)
        return records

    def _kept_features(self, row: Precomputed) -> Features | None:
        if not self._indexing.keeps_features:
            return None
        width = self._indexing.feature_width
        if row.features is None or len(row.features) != width:
            found = 0 if row.features is None else len(row.features)
            raise InvalidRequest(f"features: {found:,} values; this collection keeps {width:,} of each record")
        return row.features

    def _with_codes(self, rows: Sequence[Precomputed], invalid: Invalid) -> Iterator[Precomputed]:
        """Yields the rows. Those without a code get one, computed from their features."""
        if all(row.code is not None for row in rows):
            yield from rows
            return
        hashing = self._required_hash()
        vectors = {
            place: row.features
            for place, row in enumerate(rows)
            if row.code is None and row.features is not None and len(row.features) == hashing.width
        }
        codes = hashing.codes(np.stack(list(vectors.values()))) if vectors else ()
        computed = {place: code.tobytes() for place, code in zip(vectors, codes, strict=True)}
        for place, row in enumerate(rows):
            if row.code is not None:
                yield row
            elif place in computed:
                yield dataclasses.replace(row, code=computed[place])
            else:
                count = 0 if row.features is None else len(row.features)
                invalid(row, f"features: {count:,} values; the collection's hash takes {hashing.width:,}")

    def _required_hash(self) -> LinearHash:
        if not self._hash_file:
            raise InvalidRequest(
                "features: this collection keeps no hash to compute codes with; create it in the encoder's code"
                " space, or ingest codes"
            )
        self._hash = self._hash or from_bytes(self._hash_file, "the collection's hash")
        return self._hash
