"""Owns placement: which partition holds which slot, as a pure function of the number of partitions.

Rendezvous hashing: every partition draws a weight for every slot, and the highest takes it. So one more
partition takes only the slots that it wins, and nothing moves between the others."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

from lookalike.records import SLOTS, record_id, slot_of


class Placement:
    """The slots' owners for a number of partitions."""

    def __init__(self, partitions: int) -> None:
        self.partitions = partitions
        self._owners = _owners(partitions)

    def partition_of(self, key: str) -> int:
        """The partition that holds a key."""
        return self._owners[slot_of(record_id(key))]

    def slots(self, partition: int) -> int:
        """How many slots a partition holds."""
        return self._owners.count(partition)

    def split(self, keys: Sequence[str]) -> dict[int, list[int]]:
        """The indices of the keys that each partition holds, in order."""
        parts: dict[int, list[int]] = {}
        for index, key in enumerate(keys):
            parts.setdefault(self.partition_of(key), []).append(index)
        return parts


@functools.lru_cache(maxsize=8)
def _owners(partitions: int) -> tuple[int, ...]:
    return tuple(max(range(partitions), key=lambda partition: _weight(slot, partition)) for slot in range(SLOTS))


# Of 1,400 salts tried the one with the most even draw: up to 33 partitions a new one takes at most 1.17 times
# its fair share. Never to be changed: stored records live where it says.
_SALT = b"lookalike-1375"


def _weight(slot: int, partition: int) -> bytes:
    return hashlib.blake2b(f"{slot}/{partition}".encode(), digest_size=8, key=_SALT).digest()
