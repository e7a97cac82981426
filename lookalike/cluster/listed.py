"""Owns lists of records as columns: what a shard reads for a scroll, and how the lists of several shards become
one, without an object for each record."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np
import numpy.typing as npt

from lookalike.cluster.columns import Texts
from lookalike.model.records import VersionedRecord, record_id


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Listed:
    """Live records in the order of (id, key). What was not requested is empty.

    Attributes:
        keys: Their keys.
        ids: uint64 (n,), the ids of the keys.
        versions: uint64 (n,).
        codes: uint8 (n, bits/8), or (n, 0).
        attributes: Canonical JSON text.
        thumbnails: Encoded images.
    """

    keys: Texts
    ids: npt.NDArray[np.uint64]
    versions: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.uint8]
    attributes: Texts
    thumbnails: Texts

    @classmethod
    def of(cls, records: Sequence[VersionedRecord]) -> Self:
        """Returns the records as columns, in the given order. Their codes must have one width."""
        codes = np.frombuffer(b"".join(record.code or b"" for record in records), np.uint8)
        return cls(
            Texts.of([record.key for record in records]),
            np.fromiter((record_id(record.key) for record in records), np.uint64, len(records)),
            np.fromiter((record.version for record in records), np.uint64, len(records)),
            codes.reshape(len(records), len(codes) // max(1, len(records))),
            Texts.of([record.attributes for record in records]),
            Texts.joined([record.thumbnail for record in records]),
        )

    @classmethod
    def concat(cls, parts: Sequence[Listed]) -> Self:
        """Puts lists end to end."""
        parts = [part for part in parts if len(part)]
        if not parts:
            return cls.of([])
        return cls(
            Texts.concat([part.keys for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.versions for part in parts]),
            np.concatenate([part.codes for part in parts]),
            Texts.concat([part.attributes for part in parts]),
            Texts.concat([part.thumbnails for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """The approximate bytes of each record in a message, (n,)."""
        texts: npt.NDArray[np.int64] = self.keys.sizes + self.attributes.sizes + self.thumbnails.sizes
        return texts + np.int64(self.codes.shape[1])

    def take(self, rows: npt.NDArray[np.intp]) -> Listed:
        """Returns the records with these indices, (m,)."""
        return Listed(
            self.keys.take(rows),
            self.ids[rows],
            self.versions[rows],
            self.codes[rows],
            self.attributes.take(rows),
            self.thumbnails.take(rows),
        )

    def slice(self, start: int, end: int) -> Listed:
        """Returns the records with the indices from `start` to before `end`."""
        if start <= 0 and end >= len(self):
            return self
        return Listed(
            self.keys.slice(start, end),
            self.ids[start:end],
            self.versions[start:end],
            self.codes[start:end],
            self.attributes.slice(start, end),
            self.thumbnails.slice(start, end),
        )

    def last_key(self) -> str:
        """Returns the last record's key. There must be one."""
        start = int(self.keys.ends[-2]) if len(self) > 1 else 0
        return self.keys.data[start:].decode()

    def records(self) -> list[VersionedRecord]:
        """Returns the records as objects."""
        codes, width = self.codes.tobytes(), self.codes.shape[1]
        return [
            VersionedRecord(key, codes[row * width : (row + 1) * width], attributes, version, b"", thumbnail)
            for row, (key, attributes, version, thumbnail) in enumerate(
                zip(
                    self.keys.strings(),
                    self.attributes.strings(),
                    self.versions.tolist(),
                    self.thumbnails.pieces(),
                    strict=True,
                )
            )
        ]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class MergedList:
    """The merged lists of several shards.

    Attributes:
        listed: The records, each key once.
        agreed: bool (n,), whether all copies of a record that were expected are there, in one version.
        more: Whether there are further records after the last one.
    """

    listed: Listed
    agreed: npt.NDArray[np.bool_]
    more: bool


def merge(
    parts: Sequence[Listed], more: Sequence[bool], limit: int, max_bytes: int, copies: int = 1
) -> MergedList:
    """Merges lists into their first `limit` records, each key once. A list that has more records may have them
    after its last one only, so the merged list ends at the first such last one.

    Args:
        parts: The lists. Of a key that several have, the first one's record is returned.
        more: For each list, whether it has more records.
        limit: The most records to return.
        max_bytes: The most bytes to return; at least one record is returned.
        copies: How many of the lists are expected to have each record.
    """
    ends = [(int(part.ids[-1]), part.last_key()) for part, has_more in zip(parts, more, strict=True) if has_more]
    whole = Listed.concat(parts)
    order, counts, is_one_version = _order(whole)
    agreed = is_one_version & (counts == copies)
    cut = _places_to(whole, order, min(ends)) if ends else len(order)
    has_more = bool(ends) or cut > limit
    cut = min(cut, limit)
    sizes = np.cumsum(whole.sizes[order[:cut]])
    fitting = max(1, int(np.searchsorted(sizes, max_bytes, side="right")))
    if fitting < cut:
        cut, has_more = fitting, True
    order = order[:cut]
    is_ordered = np.array_equal(order, np.arange(cut))
    return MergedList(whole.slice(0, cut) if is_ordered else whole.take(order), agreed[:cut], has_more)


def _order(
    whole: Listed,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The indices of the first record of each key, in the order of (id, key); how many records each of these keys
    has, and whether all of them have one version."""
    order = np.argsort(whole.ids, kind="stable")
    ids = whole.ids[order]
    is_tied = ids[1:] == ids[:-1]
    if not is_tied.any():
        return order, np.ones(len(order), np.int64), np.ones(len(order), np.bool_)
    keys, known = whole.keys.pieces(), whole.ids.tolist()
    order = np.array(sorted(order.tolist(), key=lambda row: (known[row], keys[row])), np.intp)
    ordered = [keys[row] for row in order.tolist()]
    is_first = np.array([True, *(a != b for a, b in itertools.pairwise(ordered))], np.bool_)
    starts = np.flatnonzero(is_first)
    versions = whole.versions[order]
    is_one_version = np.minimum.reduceat(versions, starts) == np.maximum.reduceat(versions, starts)
    return order[starts], np.diff(np.append(starts, len(order))), is_one_version


def _places_to(whole: Listed, order: npt.NDArray[np.intp], end: tuple[int, str]) -> int:
    """How many records of the order are not after `end`."""
    identifier, key = end
    ids = whole.ids[order]
    place = int(np.searchsorted(ids, np.uint64(identifier), side="right"))
    first = int(np.searchsorted(ids, np.uint64(identifier), side="left"))
    if place - first == 1:
        return place
    tied = whole.keys.take(order[first:place]).strings()
    return first + sum(other <= key for other in tied)
