"""Owns how `lookalike dedup` finds groups: by codes alone, or with a second opinion from the pictures; and the
calibration that both use.

What looks at pictures needs the encoder's packages. It is found by the names of entry points, because this package
never imports a service."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from lookalike.cli.progress import Bar
from lookalike.client.sync_client import Client
from lookalike.jobs.dedup import calibration as calibrations
from lookalike.jobs.dedup.calibration import Calibration
from lookalike.jobs.dedup.checked import COPY, UNKNOWN, Checked, find_checked_groups
from lookalike.jobs.dedup.groups import Group, Snapshot, find_groups
from lookalike.jobs.dedup.join import Report
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Collection

_ENTRY_POINTS = "lookalike.copies"
# How many pictures the first run edits.
_SAMPLE = 300

# The records near to a file, as JSON.
Hits = Sequence[Mapping[str, Any]]
# Tells which of each file's hits are copies. Reports the number of files done so far.
FilesChecker = Callable[[Sequence[Path], Sequence[Hits], Report], list[list[bool]]]


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """What a search found.

    Attributes:
        groups: The groups.
        distance: The largest distance of two connected records, in bits.
        checked: What became of the pairs within the distance; None if codes alone decided.
    """

    groups: list[Group]
    distance: int
    checked: Checked | None

    def as_json(self) -> dict[str, object]:
        """The distance, and the numbers of pairs."""
        if self.checked is None:
            return {"max_distance": self.distance}
        pairs = dataclasses.asdict(self.checked)
        del pairs["groups"]
        return {"max_distance": self.distance, "pairs": pairs}

    def __str__(self) -> str:
        """One or two lines about the pairs; empty if codes alone decided."""
        if self.checked is None:
            return ""
        said = (
            f"{self.checked.candidates:,} pairs within {self.distance} bits were compared by their pictures:"
            f" {self.checked.copies:,} are copies"
        )
        if self.checked.unchecked:
            said += (
                f"\n{self.checked.unchecked:,} pairs have a picture without a thumbnail and without a file"
                f" that can be read here; {self.checked.unchecked_near:,} of them count as copies by their codes"
            )
        if self.checked.without_hash:
            said += (
                f"\n{self.checked.without_hash:,} records have no perceptual hash, so turned copies of them were"
                " not searched for; lookalike ingest stores the hash"
            )
        return said


def by_codes(client: Client, target: Collection, snapshot: Snapshot, max_distance: int | None, bar: Bar) -> Found:
    """Groups of records whose codes are within a distance; by default, that of the calibration."""
    distance = code_distance(client, target, snapshot, bar) if max_distance is None else max_distance
    bar.start("searching", len(snapshot.keys))
    return Found(find_groups(client, target.name, snapshot, distance, bar.completed), distance, None)


def by_pictures(
    client: Client,
    target: Collection,
    snapshot: Snapshot,
    max_distance: int | None,
    any_orientation: bool,
    bar: Bar,
) -> Found:
    """Groups of records whose pictures are copies.

    Args:
        client: A client of the cluster.
        target: The collection.
        snapshot: Its records.
        max_distance: The largest distance of two pictures that are compared, in bits; by default, the wide
            distance of the calibration.
        any_orientation: Whether turned and mirrored pictures count as copies.
        bar: Shows the progress.
    """
    checker = _loaded("check_pairs")
    calibration = _calibration(client, target, snapshot, bar)
    if calibration is None:
        return Found([], max_distance or 0, Checked([], 0, 0, 0, 0))
    wide = calibration.wide_distance if max_distance is None else max_distance
    near = min(wide, calibration.distance_for(len(snapshot.keys)))
    checked = find_checked_groups(client, target, snapshot, wide, near, checker, any_orientation, bar)
    return Found(checked.groups, wide, checked)


def files_checker(
    client: Client, target: Collection, snapshot: Snapshot, any_orientation: bool, bar: Bar
) -> tuple[int, FilesChecker]:
    """The wide distance of the calibration, in bits, and what tells which records are copies of files."""
    check_files = _loaded("check_files")
    calibration = _calibration(client, target, snapshot, bar)
    wide = near = 0
    if calibration is not None:
        wide, near = calibration.wide_distance, calibration.distance_for(len(snapshot.keys))

    def check(files: Sequence[Path], hits: Sequence[Hits], report: Report) -> list[list[bool]]:
        keys = [[hit["key"] for hit in found] for found in hits]
        verdicts = check_files(client, target.name, files, keys, any_orientation, report)
        return [
            [
                verdict == COPY or hit["exact"] or (verdict == UNKNOWN and hit["distance"] <= near)
                for verdict, hit in zip(judged, found, strict=True)
            ]
            for judged, found in zip(verdicts, hits, strict=True)
        ]

    return wide, check


def code_distance(client: Client, target: Collection, snapshot: Snapshot, bar: Bar) -> int:
    """The distance at which codes alone reach the calibration's precision, in bits."""
    calibration = _calibration(client, target, snapshot, bar)
    return 0 if calibration is None else calibration.distance_for(len(snapshot.keys))


def _calibration(client: Client, target: Collection, snapshot: Snapshot, bar: Bar) -> Calibration | None:
    """The collection's stored calibration, or a new one, which is stored. None if there is nothing to compare."""
    if len(snapshot.keys) < 2:
        return None
    stored = calibrations.load(client, target)
    if stored is not None:
        return stored
    calibrate = _loaded("calibrate_collection")
    print(
        f"{target.name!r} is not calibrated yet. A sample of its pictures is edited and encoded; this takes a"
        " minute or two, once. lookalike calibrate shows what was measured.",
        file=sys.stderr,
    )
    bar.start("calibrating", min(_SAMPLE, len(snapshot.keys)))
    made: Calibration = calibrate(client, target, snapshot, sample=_SAMPLE, report=bar.completed)
    calibrations.save(client, target, made)
    return made


def _loaded(name: str) -> Any:
    """A function of the encoder package, by the name of its entry point. Raises InvalidRequest if it is
    missing."""
    missing = ""
    for point in entry_points(group=_ENTRY_POINTS, name=name):
        try:
            return point.load()
        except ModuleNotFoundError as error:
            missing = f" ({error.name} is missing)"
    raise InvalidRequest(
        f"dedup: comparing pictures needs the encoder's packages{missing}; run pip install '.[encoder]' in the"
        " checkout, or give --max-distance, to compare codes alone"
    )
