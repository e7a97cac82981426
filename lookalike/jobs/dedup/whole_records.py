"""Owns reading whole records by key, as they must be to be stored again: with code, attributes, thumbnail and
features."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lookalike.client.sync_client import Client
from lookalike.cluster.slots import SlotSet
from lookalike.jobs.partitions import read_all_slots, read_part
from lookalike.model.records import (
    SLOTS,
    Collection,
    VersionedRecord,
    encode_attributes,
    record_id,
    slot_of,
)


def read_whole(
    client: Client, collection: Collection, keys: Sequence[str], retry_seconds: float
) -> dict[str, VersionedRecord]:
    """Reads records by key; those that do not exist are left out.

    Features are only in dumps of whole slots. So in a collection that stores features, a call takes as long as
    reading all records in the slots of the keys: give keys of few slots.
    """
    if collection.indexing.keeps_features:
        return _from_dump(client, collection, keys, retry_seconds)
    found = client.get(keys, collection=collection.name, consistency="quorum", include_thumbnails=True)
    return {
        record.key: VersionedRecord(
            record.key, record.code, encode_attributes(record.attributes), record.version, b"", record.thumbnail
        )
        for record in found
    }


def _from_dump(
    client: Client, collection: Collection, keys: Sequence[str], retry_seconds: float
) -> dict[str, VersionedRecord]:
    wanted = set(keys)
    slots = np.zeros(SLOTS, np.bool_)
    slots[[slot_of(record_id(key)) for key in keys]] = True
    found: dict[str, VersionedRecord] = {}

    def read(missing: SlotSet) -> SlotSet:
        head, batches = read_part(client, collection, missing)
        for records in batches:
            found.update((record.key, record) for record in records if record.key in wanted)
        return head.mark.slots

    read_all_slots(read, retry_seconds, slots)
    return found
