"""Owns the conversion of listings of rows to and from messages."""

from __future__ import annotations

import numpy as np

from lookalike.cluster.rows import Listing, Rows
from lookalike.v1 import shard_pb2

_NUMBER, _ID = np.dtype("<u4"), np.dtype("<u8")


def listing_to_wire(listing: Listing) -> shard_pb2.ListRowsResponse:
    return shard_pb2.ListRowsResponse(
        numbers=listing.numbers.astype(_NUMBER, copy=False).tobytes(),
        ids=listing.rows.ids.astype(_ID, copy=False).tobytes(),
        versions=listing.rows.versions.astype(_ID, copy=False).tobytes(),
        deleted=listing.rows.deleted.astype(np.uint8).tobytes(),
    )


def listing_from_wire(message: shard_pb2.ListRowsResponse) -> Listing:
    return Listing(
        np.frombuffer(message.numbers, _NUMBER).astype(np.uint32),
        Rows(
            np.frombuffer(message.ids, _ID).astype(np.uint64),
            np.frombuffer(message.versions, _ID).astype(np.uint64),
            np.frombuffer(message.deleted, np.uint8).astype(np.bool_),
        ),
    )


def numbers_to_wire(numbers: np.typing.NDArray[np.uint32]) -> bytes:
    """Encodes row numbers, uint32 (n,)."""
    return numbers.astype(_NUMBER, copy=False).tobytes()


def numbers_from_wire(data: bytes) -> list[int]:
    numbers: list[int] = np.frombuffer(data, _NUMBER).tolist()
    return numbers
