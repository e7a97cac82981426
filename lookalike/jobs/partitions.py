"""Owns reading a whole collection: part by part, each one state of one partition, until every slot is in one."""

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


def take_parts(take: Callable[[SlotSet], SlotSet], patience_seconds: float) -> None:
    """Call `take` with the slots that are missing until none is; it returns those that it took. One that fails is
    tried again for so long, as another may then have the slots."""
    missing = np.ones(SLOTS, np.bool_)
    retry = Retry(time.monotonic() + patience_seconds)
    while missing.any():
        try:
            taken = take(missing)
        except LookalikeError as error:
            retry.wait(error)
            continue
        retry.reset(time.monotonic() + patience_seconds)
        missing &= ~taken


def read_part(
    client: Client, collection: Collection, slots: SlotSet
) -> tuple[Head, Iterator[list[VersionedRecord]]]:
    """What one partition has of these slots: what it is, and its live records in portions. Raises
    CodeSpaceMismatch when the collection was made anew meanwhile."""
    parts = client.backup(collection.name, slots)
    head = next(parts, None)
    assert isinstance(head, Head), "a dump begins with its head"
    if head.incarnation != collection.incarnation:
        raise CodeSpaceMismatch(f"collection: {collection.name!r} was made anew meanwhile; start again")
    return head, (part for part in parts if isinstance(part, list))
