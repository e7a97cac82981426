"""Searches with several examples equal brute force over all records, for any number of partitions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike import AsyncClient, Client, Example, Record, SearchResult
from lookalike.model.errors import InvalidRequest, NotFound
from lookalike.model.records import record_id
from lookalike.transport.channels import open_channel
from lookalike.v1 import search_pb2 as pb
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.command import lookalike
from tests.conftest import Cluster, running_cluster
from tests.web.rest import Rest

BITS, N = 64, 700
RNG = np.random.default_rng(11)
# Copies of few codes, so that many records tie.
CODES = RNG.integers(0, 256, (90, BITS // 8), np.uint8)[RNG.integers(0, 90, N)]
KEYS = [f"k{row}" for row in range(N)]
ROW_OF = {key: row for row, key in enumerate(KEYS)}
NAME = "examples"


@pytest.fixture(scope="module", params=[1, 2, 5])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("examples"), partitions=request.param) as cluster:
        with cluster.client() as client:
            client.create_collection(NAME, bits=BITS)
            rows = zip(KEYS, CODES, strict=True)
            client.upsert(
                [Record(key, code=code, attributes={"row": ROW_OF[key]}) for key, code in rows], collection=NAME
            )
        yield cluster


@pytest.fixture
def client(filled: Cluster) -> Iterator[Client]:
    with filled.client() as client:
        yield client


def code_of(example: Example) -> np.ndarray:
    if example.key is not None:
        return CODES[ROW_OF[example.key]]
    return np.frombuffer(bytes(example.code), np.uint8)  # type: ignore[arg-type]


def oracle(
    like: Sequence[Example], not_like: Sequence[Example], rows: Sequence[int] = range(N), k: int = N
) -> list[tuple[str, float]]:
    """The first k (key, score), by whole distances and fractions of them."""

    def mean(examples: Sequence[Example], row: int) -> Fraction:
        total = sum(int(np.bitwise_count(CODES[row] ^ code_of(one)).sum()) for one in examples)
        return Fraction(total, len(examples) * BITS)

    def score(row: int) -> Fraction:
        equal = 1 - mean(like, row)
        return equal - (1 - mean(not_like, row)) / 2 if not_like else equal

    own = {example.key for example in (*like, *not_like)}
    scores = {row: score(row) for row in rows if KEYS[row] not in own}
    ordered = sorted(scores, key=lambda row: (-scores[row], record_id(KEYS[row]), KEYS[row]))
    return [(KEYS[row], float(scores[row])) for row in ordered[:k]]


def shown(result: SearchResult) -> list[tuple[str, Any]]:
    return [(hit.key, pytest.approx(hit.score, abs=1e-6)) for hit in result.hits]


def some(rng: np.random.Generator, count: int) -> list[Example]:
    def one() -> Example:
        if rng.random() < 0.5:
            return Example(key=KEYS[rng.integers(N)])
        return Example(code=rng.integers(0, 256, BITS // 8, np.uint8))

    return [one() for _ in range(count)]


@pytest.mark.parametrize("consistency", ["one", "quorum"])
@pytest.mark.parametrize(("like", "not_like"), [(1, 0), (2, 0), (1, 1), (3, 2), (5, 1), (2, 7), (100, 100)])
def test_hits_equal_brute_force(client: Client, like: int, not_like: int, consistency: Any) -> None:
    rng = np.random.default_rng(like * 100 + not_like)
    for k in (1, 20, N):
        wanted, avoided = some(rng, like), some(rng, not_like)
        result = client.search(collection=NAME, examples=wanted, not_like=avoided, k=k, consistency=consistency)
        assert shown(result) == oracle(wanted, avoided, k=k)
        assert result.exact
        assert result.coverage.complete


def test_filters_restrict_the_records(client: Client) -> None:
    wanted, avoided = [Example(key="k1"), Example(key="k2")], [Example(key="k3")]
    result = client.search(collection=NAME, examples=wanted, not_like=avoided, k=30, filter={"row": {"$lt": 120}})
    assert shown(result) == oracle(wanted, avoided, range(120), 30)


def test_pages_have_all_records_in_order(client: Client) -> None:
    wanted, avoided = [Example(key="k1"), Example(key="k2")], [Example(key="k3")]
    expected = oracle(wanted, avoided)
    hits = list(client.search_all(collection=NAME, examples=wanted, not_like=avoided, page_size=90))
    assert [(hit.key, pytest.approx(hit.score, abs=1e-6)) for hit in hits] == expected
    page = client.search(collection=NAME, examples=wanted, not_like=avoided, k=20, offset=50)
    assert shown(page) == expected[50:70]
    assert page.more
    for others in (wanted[::-1], [*wanted, Example(key="k4")]):
        with pytest.raises(InvalidRequest, match="after: is the cursor of another search"):
            client.search(collection=NAME, examples=others, not_like=avoided, after=page.cursor)
    left = client.search(collection=NAME, examples=wanted, not_like=avoided, k=9, exclude_keys=[expected[0][0]])
    assert shown(left) == expected[1:10]


def test_distance_counts_the_bits_that_differ_from_the_code_that_scores_best(client: Client) -> None:
    wanted, avoided = [Example(key=f"k{row}") for row in (1, 2, 3)], [Example(key="k4")]
    ones = np.stack([np.unpackbits(code_of(one)) for one in (*wanted, *avoided)]).astype(int)
    score_of_one = ones[:3].mean(axis=0) - ones[3] / 2
    score_of_zero = (1 - ones[:3]).mean(axis=0) - (1 - ones[3]) / 2
    best = np.packbits(np.where(score_of_one == score_of_zero, ones[0], score_of_one > score_of_zero))
    distances = np.bitwise_count(CODES ^ best).sum(axis=1).tolist()
    everything = client.search(collection=NAME, examples=wanted, not_like=avoided, k=N)
    assert everything.distances.tolist() == [distances[ROW_OF[key]] for key in everything.keys]
    for most in (0, 20, 30):
        near = [row for row in range(N) if distances[row] <= most]
        result = client.search(collection=NAME, examples=wanted, not_like=avoided, k=N, max_distance=most)
        assert shown(result) == oracle(wanted, avoided, near)


def test_one_example_is_the_same_search_as_a_query(client: Client) -> None:
    for own in ({"key": "k5"}, {"code": CODES[7].tobytes()}):
        alone = client.search(collection=NAME, k=50, **own)  # type: ignore[arg-type]
        assert client.search(collection=NAME, k=50, examples=[Example(**own)]).hits == alone.hits  # type: ignore[arg-type]
        joined = client.search(collection=NAME, k=50, not_like=[Example(key="k9")], **own)  # type: ignore[arg-type]
        assert shown(joined) == oracle([Example(**own)], [Example(key="k9")], k=50)  # type: ignore[arg-type]


def test_a_batch_may_mix_queries_with_and_without_several_examples(client: Client, filled: Cluster) -> None:

    several = pb.Examples(like=[pb.Example(key="k1"), pb.Example(key="k2")], not_like=[pb.Example(key="k3")])
    request = pb.SearchBatchRequest(
        collection=NAME,
        queries=[pb.Query(examples=several), pb.Query(key="k5"), pb.Query(examples=several)],
        options=pb.SearchOptions(k=25),
    )
    with open_channel(grpc, filled.address) as channel:
        answer = SearchServiceStub(channel).SearchBatch(request)
    first, alone, again = [[(hit.key, hit.score) for hit in result.hits] for result in answer.results]
    assert first == again
    expected = oracle([Example(key="k1"), Example(key="k2")], [Example(key="k3")], k=25)
    assert [key for key, _ in first] == [key for key, _ in expected]
    plain = client.search(collection=NAME, key="k5", k=25)
    assert alone == [(key, pytest.approx(score)) for key, score in zip(plain.keys, plain.scores, strict=True)]


def test_the_asynchronous_client_finds_the_same(client: Client, filled: Cluster) -> None:
    async def ask() -> SearchResult:
        async with AsyncClient(filled.address) as other:
            return await other.search(
                collection=NAME, examples=[Example(key="k1"), Example(key="k2")], not_like=[Example(key="k3")]
            )

    expected = oracle([Example(key="k1"), Example(key="k2")], [Example(key="k3")], k=10)
    assert shown(asyncio.run(ask())) == expected


def test_rest_and_the_command_line_find_the_same(filled: Cluster) -> None:
    expected = oracle([Example(key="k1"), Example(key="k2")], [Example(key="k3")], k=4)
    examples = {"like": [{"key": "k1"}, {"key": "k2"}], "notLike": [{"key": "k3"}]}
    reply = Rest(filled.config.coordinator.web)(
        "POST", f"/v1/collections/{NAME}/search", {"query": {"examples": examples}, "options": {"k": 4}}
    )
    assert [(hit["key"], pytest.approx(hit["score"], abs=1e-6)) for hit in reply.json["hits"]] == expected
    command = [
        "search",
        "--key",
        "k1",
        "--key",
        "k2",
        "--together",
        "--not-key",
        "k3",
        "-k",
        "4",
        "-c",
        NAME,
        "--json",
    ]
    _, output, _ = lookalike(*command, "--server", filled.address)
    found = json.loads(output)
    assert [(hit["key"], pytest.approx(hit["score"], abs=1e-6)) for hit in found["hits"]] == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"examples": [Example(key="k1")] * 101}, "examples: 101 in one request; send 1..100"),
        ({"not_like": [Example(key="k1")]}, "examples: 0 in one request; send 1..100"),
        ({"key": "k1", "not_like": [Example(key="k2")] * 101}, "not_like: 101 in one request; send 1..100"),
        ({"key": "k1", "examples": [Example(key="k2")]}, "query: give exactly one of image, code and key"),
        ({"examples": ["k1"]}, r"examples\[0\]: is str; give lookalike.Example objects"),
        ({"examples": [Example(key="k1"), Example()]}, r"examples\[1\]: needs exactly one of image, code and key"),
        ({"examples": [Example(key="k1", box=(0, 0, 1, 1))]}, r"examples\[0\].box: needs an image"),
        ({"examples": [Example(key="k1"), Example(key="k2")], "score": "asymmetric"}, "score: asymm"),
        ({"examples": [Example(key="k1"), Example(key="k2")], "rerank": "asymmetric"}, "rerank: as"),
        ({"examples": [Example(key="k1"), Example(key="k2")], "group_by": "row"}, "group_by: cannot be combined"),
        ({"examples": [Example(key="k1"), Example(code=b"12")]}, "code: the query has 2 bytes"),
        ({"examples": "k1"}, "examples: is one str; give a list"),
        (
            {"examples": [Example(key="k1"), Example(key="k2")], "projections": np.zeros(64, np.float32)},
            "projections, features: cannot be combined",
        ),
    ],
)  # fmt: skip
def test_invalid_examples_are_explained(client: Client, given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        client.search(collection=NAME, **given)


def test_a_missing_record_is_named(client: Client) -> None:
    with pytest.raises(NotFound, match="'nobody' is not in collection"):
        client.search(collection=NAME, examples=[Example(key="k1"), Example(key="nobody")])
