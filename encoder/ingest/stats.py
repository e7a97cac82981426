"""Owns the counts of a batch job."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Summary:
    """What happened to a job's records.

    found: records that were read. skipped: records that the filter left out. already_stored: records that the
        cluster already has unchanged. encoded: images that were encoded. unreadable: images and rows that are
        invalid or cannot be read. not_stored: records that the cluster refused. bytes: the size of the images and
        codes read. seconds: the duration of the whole job, including Ray's start. images_per_second: the rate
        between the first records stored and the last, so Ray's start does not count."""

    found: int = 0
    skipped: int = 0
    already_stored: int = 0
    encoded: int = 0
    stored: int = 0
    unreadable: int = 0
    not_stored: int = 0
    bytes: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0

    def outcomes(self) -> dict[str, int]:
        """Counts by outcome, under the names that the metrics use."""
        return {
            "read": self.found,
            "skipped": self.skipped,
            "already_stored": self.already_stored,
            "encoded": self.encoded,
            "stored": self.stored,
            "failed": self.unreadable + self.not_stored,
        }
