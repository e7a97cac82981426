"""Owns what searches and reads by key return to a caller: hits and records, as objects, as arrays, as a pandas
DataFrame and as HTML for notebooks."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lookalike.model import notebook
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Coverage, StoredRecord, Timings, record_id

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """One result of a search.

    Args:
        key: The record's key.
        distance: The number of differing bits; with several examples, those that differ from the code that would
            score best.
        score: The share of equal bits, weighted if the score or rerank is asymmetric. After a rerank by features,
            the cosine of the features. With several examples, the mean share of bits that equal those of the
            examples, minus half the mean share that equal those of `not_like`.
        attributes: Empty unless requested.
        thumbnail: Empty if there is none or it was not requested.
    """

    key: str
    distance: int
    score: float
    attributes: dict[str, Any]
    thumbnail: bytes = b""


@dataclasses.dataclass(frozen=True, slots=True)
class HitGroup:
    """Hits with equal values of an attribute. hits: the nearest records of the group, nearest first."""

    value: str | int | float | bool
    hits: list[Hit]


@dataclasses.dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of one query. Notebooks show it with the hits' thumbnails, if the search had
    `include_thumbnails`.

    Args:
        hits: Ordered by (distance, id, key); with several examples, another score or a rerank, by descending
            score, then id.
        coverage: How much of the collection was searched.
        exact: True if no matching record of the collection can be nearer than the hits, except those that `after`,
            `offset` or `exclude_keys` left out.
        timings: Where the time went.
        warnings: What may make the answer less useful than it seems, as sentences.
        more: True if k left out hits (or groups) that follow the last one. With `max_distance`: the hits are not
            all records within it.
        cursor: For `after`, to get the next hits. Empty if there are no more, and after a rerank, a batch, a
            search by groups or an incomplete answer.
        groups: With `group_by`, instead of hits: ordered by the (distance, id) of their first hits.
    """

    hits: list[Hit]
    coverage: Coverage
    exact: bool
    timings: Timings
    warnings: list[str] = dataclasses.field(default_factory=list)
    more: bool = False
    cursor: str = ""
    groups: list[HitGroup] = dataclasses.field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """The hits' keys."""
        return [hit.key for hit in self.hits]

    @property
    def ids(self) -> npt.NDArray[np.uint64]:
        """The hits' ids, uint64 (n,): the 64-bit BLAKE2b hashes of the keys."""
        return _ids(self.keys)

    @property
    def distances(self) -> npt.NDArray[np.int64]:
        """The hits' distances in bits, int64 (n,)."""
        return np.array([hit.distance for hit in self.hits], np.int64)

    @property
    def scores(self) -> npt.NDArray[np.float64]:
        """The hits' scores, float64 (n,)."""
        return np.array([hit.score for hit in self.hits], np.float64)

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the hits as a DataFrame with the columns key, distance and score, and one column per attribute;
        an attribute with one of these names becomes "attributes.NAME".

        Raises:
            InvalidRequest: If pandas is not installed.
        """
        columns = {"key": self.keys, "distance": self.distances, "score": self.scores}
        return _frame(columns, [hit.attributes for hit in self.hits])

    def _repr_html_(self) -> str:
        tiles = [
            notebook.Tile(hit.key, f"{hit.distance} bits, score {hit.score:.4f}", hit.attributes, hit.thumbnail)
            for hit in self.hits[: notebook.MAX_TILES]
        ]
        kind = "exact" if self.exact else "among candidates" if self.coverage.complete else "partial"
        title = f"{len(self.hits):,} hits, {kind}, {self.timings.total_ms:.1f} ms"
        return notebook.page(title, tiles, len(self.hits))


class StoredRecords(list[StoredRecord]):
    """The records that a read by key found, in the order of the keys: a list, which also gives arrays. Notebooks
    show it with thumbnails, if the call had `include_thumbnails`."""

    @property
    def keys(self) -> list[str]:
        """The records' keys."""
        return [record.key for record in self]

    @property
    def ids(self) -> npt.NDArray[np.uint64]:
        """The records' ids, uint64 (n,): the 64-bit BLAKE2b hashes of the keys."""
        return _ids(self.keys)

    @property
    def codes(self) -> npt.NDArray[np.uint8]:
        """The records' codes, uint8 (n, bits/8)."""
        width = len(self[0].code) if self else 0
        return np.frombuffer(b"".join(record.code for record in self), np.uint8).reshape(len(self), width)

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the records as a DataFrame with the columns key, code (bytes) and version, and one column per
        attribute; an attribute with one of these names becomes "attributes.NAME".

        Raises:
            InvalidRequest: If pandas is not installed.
        """
        columns = {
            "key": self.keys,
            "code": [record.code for record in self],
            "version": np.array([record.version for record in self], np.uint64),
        }
        return _frame(columns, [record.attributes for record in self])

    def _repr_html_(self) -> str:
        tiles = [
            notebook.Tile(record.key, f"{len(record.code) * 8} bits", record.attributes, record.thumbnail)
            for record in self[: notebook.MAX_TILES]
        ]
        return notebook.page(f"{len(self):,} records", tiles, len(self))


def _ids(keys: Sequence[str]) -> npt.NDArray[np.uint64]:
    return np.array([record_id(key) for key in keys], np.uint64)


def _frame(columns: dict[str, Any], attributes: Sequence[dict[str, Any]]) -> pandas.DataFrame:
    try:
        import pandas
    except ImportError:
        raise InvalidRequest("to_pandas: pandas is not installed; run pip install pandas") from None
    names = dict.fromkeys(name for row in attributes for name in row)
    for name in names:
        column = name
        while column in columns:
            column = f"attributes.{column}"
        columns[column] = [row.get(name) for row in attributes]
    return pandas.DataFrame(columns)
