"""Owns the counts of a batch job."""

from __future__ import annotations

import dataclasses

# The reasons for leaving a record out that come from the job's options.
WHERE = "does not match --where"
LIMIT = "over --limit"


@dataclasses.dataclass(slots=True)
class Summary:
    """What happened to a job's records.

    found: files and rows that were seen: always the sum of stored, already_stored, unreadable, not_stored and
        skipped. skipped: those that were left out; skipped_by_reason counts them by reason. already_stored:
        records that the cluster already has unchanged. encoded: images that were encoded. unreadable: images, rows
        and folders that are invalid or cannot be read. not_stored: records that the cluster refused. removed:
        records that were deleted because their files are gone. bytes: the size of the images and codes read.
        seconds: the duration of the whole job, including Ray's start. images_per_second: the rate between the
        first records stored and the last, without Ray's start. warnings: what the user should know, as
        sentences."""

    found: int = 0
    skipped: int = 0
    already_stored: int = 0
    encoded: int = 0
    stored: int = 0
    unreadable: int = 0
    not_stored: int = 0
    removed: int = 0
    bytes: int = 0
    seconds: float = 0.0
    images_per_second: float = 0.0
    skipped_by_reason: dict[str, int] = dataclasses.field(default_factory=dict)
    warnings: list[str] = dataclasses.field(default_factory=list)

    def set_skipped(self, reason: str, count: int) -> None:
        """Sets how many files and rows were left out for a reason."""
        if count:
            self.skipped_by_reason[reason] = count
            self.skipped = sum(self.skipped_by_reason.values())

    def count_skipped(self, reason: str) -> None:
        """Counts one more file or row that was left out for a reason."""
        self.set_skipped(reason, self.skipped_by_reason.get(reason, 0) + 1)

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
