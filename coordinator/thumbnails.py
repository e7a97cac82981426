"""Owns the thumbnails of hits: reads them after the search, once for each record."""

from __future__ import annotations

from collections.abc import Mapping

from coordinator.reader import Reader
from lookalike.cluster.hits import HitTable
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import MAX_ANSWER_BYTES, answer_too_large
from lookalike.model.search_options import Consistency

# Different records. As many fit into a message even if each thumbnail has the maximum size.
MAX_THUMBNAILS = 1_000


async def read(
    reader: Reader, collection: str, hits: HitTable, consistency: Consistency, deadline: float
) -> Mapping[str, bytes]:
    """Returns the thumbnails of the hits' records that have one, by key.

    Raises:
        InvalidRequest: If the hits are of too many records, or their thumbnails take too many bytes.
        PartitionUnavailable: If a partition does not answer.
    """
    found = hits.keys.tolist()
    keys = list(dict.fromkeys(found))
    if len(keys) > MAX_THUMBNAILS:
        raise InvalidRequest(
            f"include_thumbnails: the hits are {len(keys):,} different records; ask for at most {MAX_THUMBNAILS:,}"
            " hits in all"
        )
    if not keys:
        return {}
    records = await reader.get(collection, keys, consistency, deadline, include_thumbnails=True)
    thumbnails = {record.key: record.thumbnail for record in records if record.thumbnail}
    # A record that several queries find is sent once for each.
    if sum(len(thumbnails.get(key, b"")) for key in found) > MAX_ANSWER_BYTES:
        raise answer_too_large()
    return thumbnails
