"""Owns the history of writes: for each key its writes in order, with their invocation and acknowledgement times,
and which of them a read may see. Times are seconds of one monotonic clock. Independent of any cluster.

Invariant: each key is written by one thread, which begins a write only after the previous one was acknowledged. So
a key's writes are totally ordered, and readers need no lock: a write is recorded before it is sent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence


@dataclasses.dataclass(frozen=True, slots=True)
class Attributes:
    """The attributes of a record, next to its key, its writer and its sequence number.

    Attributes:
        born: The sequence number of the upsert, which no later change of attributes may touch.
        group: A small number, for filters; untouched as well.
        note: A number that changes of attributes set and remove; None if it was removed.
    """

    born: int
    group: int
    note: int | None


@dataclasses.dataclass(slots=True, eq=False)
class Write:
    """One write of a key: an upsert, a deletion, or a change of attributes, after which the record is as stated.

    Attributes:
        key: The key.
        sequence: The number of the key's write, ascending from 1; 0 is the absence before the first.
        code: The code, or None in a deletion.
        invoked: When it began.
        acknowledged: When it was acknowledged, or None.
        is_doubtful: Whether an attempt failed or timed out and may nevertheless have been applied.
        attributes: The other attributes; None in a deletion, and if they are not checked.
        thumbnail: The thumbnail; empty if there is none.
    """

    key: str
    sequence: int
    code: int | None
    invoked: float
    acknowledged: float | None = None
    is_doubtful: bool = False
    attributes: Attributes | None = None
    thumbnail: bytes = b""

    @property
    def is_delete(self) -> bool:
        return self.code is None

    def __str__(self) -> str:
        what = "absent" if self.code is None else f"{self.code:#x}"
        done = "never" if self.acknowledged is None else f"{self.acknowledged:.3f}"
        shown = "" if self.attributes is None else f" {self.attributes}"
        doubtful = ", doubtful" if self.is_doubtful else ""
        return f"#{self.sequence} {what}{shown} ({self.invoked:.3f}..{done}{doubtful})"


class History:
    """The writes of a fixed set of keys."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._writes = {key: [Write(key, 0, None, -math.inf, -math.inf)] for key in keys}
        self._by_sequence = {key: {0: writes[0]} for key, writes in self._writes.items()}

    @property
    def keys(self) -> Sequence[str]:
        return list(self._writes)

    def __contains__(self, key: str) -> bool:
        return key in self._writes

    def begin(
        self,
        key: str,
        code: int | None,
        now: float,
        sequence: int | None = None,
        attributes: Attributes | None = None,
        thumbnail: bytes = b"",
    ) -> Write:
        """Records a write, before it is sent. By default, its sequence number is the next one."""
        writes = self._writes[key]
        assert writes[-1].acknowledged is not None, f"{key} has a pending write"
        number = writes[-1].sequence + 1 if sequence is None else sequence
        assert number > writes[-1].sequence, f"{key}: sequence {number} is not above {writes[-1].sequence}"
        write = Write(key, number, code, now, attributes=attributes, thumbnail=thumbnail)
        # First, so that a reader that sees it in the list finds it here.
        self._by_sequence[key][number] = write
        writes.append(write)
        return write

    def find(self, key: str, sequence: int) -> Write | None:
        """Returns the write with this sequence number, if there is one."""
        return self._by_sequence[key].get(sequence)

    def last(self, key: str) -> Write:
        return self._writes[key][-1]

    def upserts(self, key: str) -> list[Write]:
        """Returns the key's acknowledged writes, without deletions."""
        return [write for write in self._writes[key] if not write.is_delete and write.acknowledged is not None]

    def acknowledged(self) -> int:
        """Returns the number of acknowledged writes."""
        return sum(write.acknowledged is not None for writes in self._writes.values() for write in writes[1:])

    def permitted(self, key: str, began: float, ended: float) -> list[Write]:
        """Returns the writes that a read from `began` to `ended` may see, newest first: the last one acknowledged
        before `began`, and any later one invoked by `ended`."""
        found = []
        for write in reversed(self._writes[key]):
            if write.invoked <= ended:
                found.append(write)
            if write.acknowledged is not None and write.acknowledged < began:
                break
        return found

    def doubtful_before(self, key: str, sequence: int) -> list[Write]:
        """Returns earlier writes with an attempt that may still be in flight."""
        return [write for write in list(self._writes[key]) if write.sequence < sequence and write.is_doubtful]
