"""Owns what was written: for each key its writes in order, with when each was begun and acknowledged, and which
of them a read may see. Times are seconds of one monotonic clock. Pure: knows no cluster.

Invariant: each key is written by one thread, which begins a write only after the one before was acknowledged.
So a key's writes have one order, and readers need no lock: a write is noted before it is sent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(slots=True, eq=False)
class Write:
    """One write of a key. sequence: counts the key's writes, from 1; 0 stands for the absence before the first.
    code: None in a deletion. acknowledged: None as long as nobody said that it is done. is_doubtful: an attempt
    failed or timed out, and may have been applied all the same."""

    key: str
    sequence: int
    code: int | None
    invoked: float
    acknowledged: float | None = None
    is_doubtful: bool = False

    @property
    def is_delete(self) -> bool:
        return self.code is None

    def __str__(self) -> str:
        what = "absent" if self.code is None else f"{self.code:#x}"
        done = "never" if self.acknowledged is None else f"{self.acknowledged:.3f}"
        return f"#{self.sequence} {what} ({self.invoked:.3f}..{done}{', doubtful' if self.is_doubtful else ''})"


class History:
    """The writes of a fixed set of keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._writes = {key: [Write(key, 0, None, -math.inf, -math.inf)] for key in keys}

    @property
    def keys(self) -> Sequence[str]:
        return list(self._writes)

    def __contains__(self, key: str) -> bool:
        return key in self._writes

    def begin(self, key: str, code: int | None, now: float) -> Write:
        """Note a write, before it is sent."""
        writes = self._writes[key]
        assert writes[-1].acknowledged is not None, f"{key} has a write that is not done"
        write = Write(key, len(writes), code, now)
        writes.append(write)
        return write

    def find(self, key: str, sequence: int) -> Write | None:
        """The write of that number, if there was one."""
        writes = self._writes[key]
        return writes[sequence] if 0 <= sequence < len(writes) else None

    def last(self, key: str) -> Write:
        return self._writes[key][-1]

    def upserts(self, key: str) -> list[Write]:
        """The key's acknowledged writes with a content."""
        return [write for write in self._writes[key] if not write.is_delete and write.acknowledged is not None]

    def acknowledged(self) -> int:
        """How many writes were acknowledged."""
        return sum(write.acknowledged is not None for writes in self._writes.values() for write in writes[1:])

    def permitted(self, key: str, began: float, ended: float) -> list[Write]:
        """What a read from `began` to `ended` may see, newest first: the last write acknowledged before, and any
        later one that was begun before its end."""
        found = []
        for write in reversed(self._writes[key]):
            if write.invoked <= ended:
                found.append(write)
            if write.acknowledged is not None and write.acknowledged < began:
                break
        return found

    def doubtful_before(self, key: str, sequence: int) -> list[Write]:
        """Earlier writes of which an attempt may still be on its way."""
        return [write for write in self._writes[key][:sequence] if write.is_doubtful]
