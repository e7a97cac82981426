"""Owns a collection's calibration: how far copies of its pictures lie, how far different pictures lie, and which
distance follows for `lookalike dedup`. Pure functions on plain data; the collection stores it as a note."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lookalike.client.sync_client import Client
from lookalike.jobs.dedup.strangers import Floats, Sampled
from lookalike.jobs.notes import get_note, set_note
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection

NOTE = "calibration"
DEFAULT_PRECISION = 0.99
DEFAULT_SHARE = 0.05
# Meta's threshold for PDQ, "distance <= 31": https://github.com/facebook/ThreatExchange/tree/main/pdq
PUBLISHED_DISTANCES = {"pdq": 31}

_PUBLISHED = "published"
_FORM = 1
# Order statistics stored for each edit: enough for a recall in steps of 1 %, in a note of at most 48 KiB.
_QUANTILES = 100
_LARGEST_SHARE = 0.05
_WIDE_RECALL = 0.98


@dataclasses.dataclass(frozen=True, slots=True)
class Calibration:
    """What was measured in a collection.

    Attributes:
        records: The number of records.
        pictures: How many pictures were edited; 0 if there were none, and the distances are an estimate.
        copies: Distances of copies by edit, in bits, ascending: at most `_QUANTILES` order statistics each.
        strangers: The share of the pairs of different pictures within 0, 1, 2... bits.
        checked: The share of copies that the second opinion recognises, by edit; empty if it was not measured.
        precision: The target: the share of the pairs within `max_distance` that are copies.
        share: The assumed share of records that are a copy of another record.
        max_distance: The largest distance at which codes alone reach the target, in bits.
        wide_distance: The distance within which the second opinion is asked, in bits.
        source: Where `max_distance` comes from, in a few words.
    """

    records: int
    pictures: int
    copies: Mapping[str, Sequence[int]]
    strangers: Sequence[float]
    checked: Mapping[str, float]
    precision: float
    share: float
    max_distance: int
    wide_distance: int
    source: str

    def recall(self, distance: int, edit: str) -> float:
        """The share of the copies by an edit that lie within a distance."""
        distances = self.copies[edit]
        return sum(each <= distance for each in distances) / len(distances)

    def mean_recall(self, distance: int) -> float:
        """The mean of the recalls of all edits."""
        return _mean_recall(self.copies, distance)

    def false_pairs(self, distance: int, records: int | None = None) -> float:
        """The expected pairs of different pictures within a distance, in a collection of `records` records (by
        default, as many as were measured)."""
        count = self.records if records is None else records
        return count * (count - 1) / 2 * self.strangers[min(distance, len(self.strangers) - 1)]

    def distance_for(self, records: int) -> int:
        """The largest distance at which codes alone reach the target in a collection that has `records` records
        now, in bits."""
        if not self.copies and self.source.startswith(_PUBLISHED):
            return self.max_distance
        return _choose(self.copies, self.strangers, records, self.precision, self.share)

    def to_text(self) -> str:
        """The calibration as JSON."""
        return json.dumps({"form": _FORM, **dataclasses.asdict(self)}, separators=(",", ":"))


def from_text(text: str) -> Calibration:
    """Reads what `to_text` wrote. Raises InvalidRequest if it is something else."""
    try:
        fields: dict[str, Any] = json.loads(text)
        if fields.pop("form") != _FORM:
            raise ValueError("another form")
        return Calibration(**fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRequest(
            f"calibration: the collection's note cannot be read ({error}); run lookalike calibrate again"
        ) from None


def load(client: Client, collection: Collection) -> Calibration | None:
    """Returns the stored calibration of a collection; None if there is none."""
    text = get_note(client, collection, NOTE)
    return from_text(text) if text else None


def save(client: Client, collection: Collection, calibration: Calibration) -> None:
    """Stores a calibration with the collection."""
    set_note(client, collection, NOTE, calibration.to_text())


def calibrated(
    space: CodeSpace,
    sampled: Sampled,
    strangers: Floats,
    copies: Mapping[str, Sequence[int]],
    checked: Mapping[str, float],
    precision: float = DEFAULT_PRECISION,
    share: float = DEFAULT_SHARE,
) -> Calibration:
    """Makes the calibration of a collection.

    Args:
        space: The collection's code space.
        sampled: The distances between its codes.
        strangers: The share of the pairs of different pictures within each distance; see `strangers`.
        copies: Distances of copies from their originals by edit, in bits; empty if there are no pictures.
        checked: The share of copies that the second opinion recognises, by edit.
        precision: The target.
        share: The assumed share of records that are a copy of another record.
    """
    quantiles = {edit: _order_statistics(distances) for edit, distances in copies.items()}
    largest = max(1, int(np.searchsorted(strangers, _LARGEST_SHARE, "right")) - 1)
    # Not limited by the strangers: where most records have copies, many near pairs are copies.
    wide = _wide_distance(quantiles, largest)
    strangers = strangers[: max(wide, largest) + 1]
    published = PUBLISHED_DISTANCES.get(space.hash_method)
    if quantiles:
        source = "measured on edited pictures of the collection"
    elif published is not None:
        source = f"{_PUBLISHED} for {space.hash_method}"
    else:
        source = "estimated from the distances between the collection's codes alone"
    if published is None or quantiles:
        chosen = _choose(quantiles, strangers, sampled.records, precision, share)
    else:
        chosen = published
    return Calibration(
        sampled.records, max(map(len, copies.values()), default=0), quantiles,
        [float(f"{each:.3g}") for each in strangers], checked, precision, share, chosen, max(wide, chosen), source,
    )  # fmt: skip


def _order_statistics(distances: Sequence[int]) -> list[int]:
    ordered = np.sort(np.asarray(distances, np.int64))
    if len(ordered) <= _QUANTILES:
        return [int(each) for each in ordered]
    places = (np.arange(_QUANTILES) + 0.5) / _QUANTILES * len(ordered)
    return [int(each) for each in ordered[places.astype(np.int64)]]


def _mean_recall(copies: Mapping[str, Sequence[int]], distance: int) -> float:
    if not copies:
        return 1.0
    return float(np.mean([np.mean(np.asarray(each) <= distance) for each in copies.values()]))


def _choose(
    copies: Mapping[str, Sequence[int]],
    strangers: Sequence[float] | Floats,
    records: int,
    precision: float,
    share: float,
) -> int:
    """The largest distance at which the target precision is expected; 0 if there is none."""
    pairs = records * (records - 1) / 2
    chosen = 0
    for distance, stranger_share in enumerate(strangers):
        true = records * share * _mean_recall(copies, distance)
        false = pairs * float(stranger_share)
        if true and true / (true + false) >= precision:
            chosen = distance
    return chosen


def _wide_distance(copies: Mapping[str, Sequence[int]], largest: int) -> int:
    """The smallest distance that holds nearly all copies; `largest` if there are none."""
    distances = sorted({each for found in copies.values() for each in found})
    return next((each for each in distances if _mean_recall(copies, each) >= _WIDE_RECALL), largest)


def expected_precision(calibration: Calibration, distance: int) -> float:
    """The share of the pairs within a distance that are expected to be copies; NaN if no pair is expected."""
    true = calibration.records * calibration.share * calibration.mean_recall(distance)
    false = calibration.false_pairs(distance)
    return true / (true + false) if true + false else math.nan
