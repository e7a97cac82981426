"""Owns how complete an answer is: which partitions answered, and whether an incomplete answer may be returned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from coordinator.routing import Share
from lookalike.model.errors import (
    CodeSpaceMismatch,
    InvalidRequest,
    LookalikeError,
    NotFound,
    PartitionUnavailable,
)
from lookalike.model.records import Coverage


class Part(Protocol):
    """One partition's answer; see `ScanResult`."""

    @property
    def rows(self) -> int: ...
    @property
    def stale_ms(self) -> int: ...


class CoverageTracker:
    """Computes coverage. Remembers the last row count of each partition, to estimate the rows of missing
    partitions."""

    def __init__(self) -> None:
        # By collection, the rows of each partition.
        self._rows_known: dict[str, dict[int, int]] = {}

    def coverage(
        self, collection: str, shares: Sequence[Share], parts: Sequence[Part | LookalikeError]
    ) -> Coverage:
        """Returns the coverage of answers, which counts only partitions that have slots. A partition counts as
        answered if it answered for all its slots.

        Args:
            collection: The collection's name.
            shares: The slots that were asked for, by partition.
            parts: The answer, or the error, for each share.
        """
        missing: dict[int, str] = {}
        rows: dict[int, int] = {}
        stale_ms = 0
        for share, part in zip(shares, parts, strict=True):
            if isinstance(part, LookalikeError):
                missing[share.partition] = part.message
                continue
            rows[share.partition] = rows.get(share.partition, 0) + part.rows
            stale_ms = max(stale_ms, part.stale_ms)
        searched = sum(rows.values())
        if not missing:
            self._rows_known[collection] = rows
            return Coverage(len(rows), len(rows), searched, searched, missing, stale_ms)
        rows_known = self._rows_known.setdefault(collection, {})
        rows_known |= {partition: count for partition, count in rows.items() if partition not in missing}
        unsearched = sum(max(0, rows_known.get(partition, 0) - rows.get(partition, 0)) for partition in missing)
        partitions = len(rows.keys() | missing.keys())
        return Coverage(partitions, partitions - len(missing), searched, searched + unsearched, missing, stale_ms)


def require_acceptable(
    missing: Sequence[LookalikeError],
    allow_partial: bool,
    coverage: Coverage,
    remedy: str = "retry, or allow a partial answer",
) -> None:
    """Raises unless an incomplete answer is allowed and only unavailable partitions made it incomplete.

    Args:
        missing: The errors of the partitions that did not answer; at least one.
        allow_partial: Whether the caller accepts an incomplete answer.
        coverage: The answer's coverage.
        remedy: What the caller can do about a missing partition, unless an incomplete answer is allowed.

    Raises:
        InvalidRequest, CodeSpaceMismatch: If a partition rejected the request.
        NotFound: If no partition has the collection.
        PartitionUnavailable, DeadlineExceeded: If partitions are missing; the text names them.
    """
    for error in missing:
        if isinstance(error, InvalidRequest | CodeSpaceMismatch):
            raise error
    kinds = {type(error) for error in missing}
    if kinds == {NotFound} and not coverage.answered:
        raise missing[0]
    if coverage.answered and allow_partial:
        return
    kind = kinds.pop() if len(kinds) == 1 and NotFound not in kinds else PartitionUnavailable
    advice = "" if allow_partial else f"; {remedy}"
    raise kind(f"{'; '.join(coverage.missing.values())}{advice}", retry_after_ms=missing[0].retry_after_ms)
