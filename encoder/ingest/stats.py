"""Owns the account of a batch job: how many records there were, and what became of them."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(slots=True)
class Summary:
    """What became of a job's records. found: that were read, of which `skipped` were left out by the filter and
    `already_stored` were there, unchanged. encoded: images that became codes. bytes: of images and codes read.
    seconds: the whole job, Ray's start included. images_per_second: stored between the first portion and the
    last, so without the start."""

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
        """Counts by outcome, as metrics name them."""
        return {
            "read": self.found,
            "skipped": self.skipped,
            "already_stored": self.already_stored,
            "encoded": self.encoded,
            "stored": self.stored,
            "failed": self.unreadable + self.not_stored,
        }
