"""Owns reading a whole collection, one partition at a time, until every slot is covered. Each part is a consistent
state of one partition."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np

from lookalike.client.sync_client import Client
from lookalike.cluster.dump import Head
from lookalike.cluster.slots import SlotSet
from lookalike.model.errors import CodeSpaceMismatch, LookalikeError
from lookalike.model.records import SLOTS, Collection, VersionedRecord
from lookalike.transport.retry import Retry


def read_all_slots(read: Callable[[SlotSet], SlotSet], retry_seconds: float, slots: SlotSet | None = None) -> None:
    """Calls `read` with the missing slots until none is missing.

    Args:
        read: Reads one partition and returns the slots that it covered. After a transient error it is called
            again, because another partition may then have the slots.
        retry_seconds: How long to retry without progress.
        slots: bool (1024,), the slots to read; all by default.

    Raises:
        LookalikeError: The last error of `read`.
    """
    missing = np.ones(SLOTS, np.bool_) if slots is None else slots.copy()
    retry = Retry(time.monotonic() + retry_seconds)
    while missing.any():
        try:
            covered = read(missing)
        except LookalikeError as error:
            retry.wait(error)
            continue
        retry.reset(time.monotonic() + retry_seconds)
        missing &= ~covered


def read_part(
    client: Client, collection: Collection, slots: SlotSet
) -> tuple[Head, Iterator[list[VersionedRecord]]]:
    """Reads one partition's records of these slots.

    Returns:
        The head, which names the slots that the partition covers, and batches of its live records.

    Raises:
        CodeSpaceMismatch: If the collection was recreated in the meantime.
    """
    parts = client.backup(collection.name, slots)
    head = next(parts, None)
    assert isinstance(head, Head), "a dump begins with its head"
    if head.incarnation != collection.incarnation:
        raise CodeSpaceMismatch(f"collection: {collection.name!r} was recreated in the meantime; start again")
    return head, (part for part in parts if isinstance(part, list))
