"""How records become requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from lookalike import Record
from lookalike.client.arguments import async_batches, batches
from lookalike.client.calls import Calls
from lookalike.model.errors import InvalidRequest

RECORDS = [Record(str(number), code=bytes(8)) for number in range(600)]


def test_records_are_sent_in_batches_as_soon_as_one_is_full() -> None:
    read: list[Record] = []

    def source() -> Iterator[Record]:
        for record in RECORDS:
            read.append(record)
            yield record

    found = batches(source())
    assert (list(next(found)), len(read)) == (RECORDS[:256], 256)
    assert [len(batch) for batch in found] == [256, 88]


def test_own_batches_are_kept_and_do_not_overtake_single_records() -> None:
    first, second, *_ = RECORDS
    assert list(batches([[first, second], [second]])) == [[first, second], [second]]
    mixed = [first, [second], second]
    assert list(batches(mixed)) == [[first], [second], [second]]  # type: ignore[arg-type]


async def test_asynchronous_source_yields_its_own_batches() -> None:
    async def source() -> AsyncIterator[list[Record]]:
        yield RECORDS[:2]
        yield RECORDS[2:]

    assert [len(batch) async for batch in async_batches(source())] == [2, 598]
    assert [len(batch) async for batch in async_batches(RECORDS)] == [256, 256, 88]


def test_requests_are_split_by_count_and_by_bytes() -> None:
    calls = Calls(1.0)
    assert [len(one.records) for one in calls.ingest_requests(RECORDS, "c", None)] == [256, 256, 88]
    large = [Record(str(number), image=bytes(3 * 1024 * 1024)) for number in range(5)]
    assert [len(one.records) for one in calls.ingest_requests(large, "c", None)] == [2, 2, 1]
    larger = [Record("a", image=bytes(9 * 1024 * 1024)), *large[:1]]
    assert [len(one.records) for one in calls.ingest_requests(larger, "c", None)] == [1, 1]
    assert [len(one.request.records) for one in calls.upserts("c", RECORDS * 20, None)] == [10_000, 2_000]


def test_item_that_is_no_record_is_rejected() -> None:
    (batch,) = batches(["a"])  # type: ignore[list-item]
    with pytest.raises(InvalidRequest, match=r"record: is str; give lookalike\.Record objects"):
        list(Calls(1.0).ingest_requests(batch, "c", None))
