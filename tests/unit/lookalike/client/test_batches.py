"""Batches of any size: their division into requests, and the joint answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lookalike import Coverage, Hit, SearchOptions, SearchResult
from lookalike.client.arguments import queries_of
from lookalike.client.batches import join_results, split_queries
from lookalike.model.errors import InvalidRequest
from lookalike.model.records import Timings
from lookalike.v1 import search_pb2 as pb


def sizes(count: int, options: SearchOptions, image_bytes: int = 0) -> list[int]:
    queries = (pb.Query(image=bytes(image_bytes)) for _ in range(count))
    return [len(part) for part in split_queries(queries, options)]


def test_requests_stay_within_the_limits() -> None:
    assert sizes(1_024, SearchOptions()) == [1_024]
    assert sizes(2_500, SearchOptions()) == [1_024, 1_024, 452]
    assert sizes(450, SearchOptions(k=1_000)) == [200, 200, 50]
    assert sizes(45, SearchOptions(k=1_000, rerank="features", oversampling=10)) == [20, 20, 5]
    assert sizes(2, SearchOptions(k=10_000)) == [2]
    assert sizes(4, SearchOptions(), image_bytes=30 * 2**20) == [1, 1, 1, 1]
    assert sizes(1, SearchOptions(), image_bytes=60 * 2**20) == [1]
    assert sizes(0, SearchOptions()) == [0]


def test_queries_are_read_when_their_request_is_due() -> None:
    read = 0

    def queries() -> Iterator[pb.Query]:
        nonlocal read
        for _ in range(5_000):
            read += 1
            yield pb.Query(key="k")

    parts = split_queries(queries(), SearchOptions())
    for number in (1, 2):
        next(parts)
        assert read <= number * 1_024 + 1


def answer(number: int, count: int, coverage: Coverage, exact: bool = True) -> list[SearchResult]:
    hits = [[Hit(f"{number}-{place}", 0, 1.0, {})] for place in range(count)]
    timings = Timings(1, 2, 3, 10 * number)
    return [SearchResult(own, coverage, exact, timings, [f"warning {number % 2}"]) for own in hits]


def test_results_of_several_requests_share_the_worst_coverage() -> None:
    whole, part = Coverage(3, 3, 90, 90, {}, 5), Coverage(3, 2, 60, 91, {1: "down"}, 0)
    joined = join_results(
        [answer(1, 2, whole), answer(2, 1, part, exact=False), answer(3, 1, Coverage(3, 2, 70, 90, {2: "slow"}))]
    )
    assert [result.keys for result in joined] == [["1-0"], ["1-1"], ["2-0"], ["3-0"]]
    for result in joined:
        assert result.coverage == Coverage(3, 1, 60, 91, {1: "down", 2: "slow"}, 5)
        assert not result.exact
        assert result.timings == Timings(3, 6, 9, 60)
        assert result.warnings == ["warning 1", "warning 0"]


def test_one_request_is_returned_as_it_is() -> None:
    alone = answer(1, 3, Coverage(3, 3, 90, 90))
    assert join_results([alone]) == alone
    assert join_results([[]]) == []


@pytest.mark.parametrize("field", ["projections", "features", "boxes"])
def test_numbers_that_do_not_fit_are_refused_at_once(field: str) -> None:
    given = {"projections": (), "features": (), "boxes": ()} | {field: [(0, 0, 1, 1)] * 3}
    with pytest.raises(InvalidRequest, match=rf"{field}: there are 3 for 2 (codes|images); give one for each"):
        queries_of([b"", b""], [b"", b""], [], **given)  # type: ignore[arg-type]


def test_boxes_are_sent_with_their_images() -> None:
    queries = list(queries_of([b"a", b"b"], [], ["k"], [], [], [None, (0, 0.25, 0.5, 1)]))
    assert not queries[0].HasField("box")
    assert (queries[1].box.x0, queries[1].box.y0, queries[1].box.x1, queries[1].box.y1) == (0, 0.25, 0.5, 1)
    assert queries[2].key == "k"
