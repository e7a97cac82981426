"""Filters on a real cluster: each operator with and without an index, fields that no record has, times from every
way in, and the same language in the SDK, on the command line and in REST."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lookalike import Client, Record, filters
from lookalike.model.errors import InvalidRequest, UnknownFieldWarning
from tests.command import lookalike
from tests.conftest import Cluster
from tests.oracle import meets
from tests.web.rest import Rest

MAY = datetime.datetime(2026, 5, 1, 8, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "2023/empty": {},
    "2024/null": {"a": None},
    "2024/one": {"a": 1},
    "2024/float": {"a": 1.0},
    "2024/true": {"a": True},
    "2024/text": {"a": "1"},
    "2024/list": {"a": [1, "cat", None]},
    "2025/none": {"a": []},
    "2025/object": {"a": {"b": 1}},
    "2025/cat": {"a": "cat"},
    "2025/caterpillar": {"a": "caterpillar"},
    "2025/exact": {"a": 2**53},
    "2025/next": {"a": 2**53 + 1},
    "2025/large": {"a": 2**63 - 1},
    "2025/larger": {"a": 2**64 + 1},
    "2026/may": {"a": MAY},
    "2026/day": {"a": MAY.date()},
    "2026/other-zone": {"a": MAY.isoformat()},
}
CONDITIONS: list[dict[str, Any]] = [
    {"a": 1}, {"a": None}, {"a": True}, {"a": "cat"}, {"a": 2**53}, {"a": 2**53 + 1}, {"a": 2.0**53},
    {"a": 2.0**64},
    {"a": {"$ne": 1}}, {"a": {"$ne": None}}, {"a": {"$in": [1, "cat"]}}, {"a": {"$in": [None, 2**63 - 1]}},
    {"a": {"$nin": [1, "cat"]}}, {"a": {"$exists": True}}, {"a": {"$exists": False}}, {"a.b": 1},
    {"a": {"$prefix": "cat"}}, {"a": {"$prefix": ""}}, {"a": {"$prefix": "2026-05-01T"}},
    {"a": {"$gt": 2**53}}, {"a": {"$gte": 2**53 + 1, "$lt": 2**63 - 1}}, {"a": {"$lte": 1}}, {"a": {"$gt": 1e18}},
    {"a": {"$gte": "cat", "$lt": "cau"}}, {"a": {"$gt": "2026-05-01"}}, {"a": MAY}, {"a": {"$gte": MAY}},
    {"a": {"$gt": MAY}}, {"a": {"$lte": MAY, "$gt": MAY.date()}}, {"a": {"$date": "2026-05-01T06:30:00Z"}},
    {"$key": "2024/one"}, {"$key": {"$in": ["2024/one", "2025/cat", "no"]}}, {"$key": {"$prefix": "2024/"}},
    {"$key": {"$ne": "2024/one"}}, {"$key": {"$gte": "2025/", "$lt": "2026/"}}, {"$key": None}, {"$key": 1},
    {"$not": {"$or": [{"a": {"$exists": True}}, {"$key": {"$prefix": "2025/"}}]}},
]  # fmt: skip


@pytest.fixture(params=["scan", "index"])
def filled(request: pytest.FixtureRequest, client: Client, collection: str) -> str:
    client.drop_collection(collection)
    client.create_collection(collection, bits=64, index_attributes=["a"] if request.param == "index" else [])
    client.upsert(
        [Record(key, code=bytes(8), attributes=attributes) for key, attributes in ATTRIBUTES.items()],
        collection=collection,
    )
    return collection


def test_every_operator_agrees_with_plain_python(client: Client, filled: str) -> None:
    stored = {record.key: record.attributes for record in client.scroll(collection=filled)}
    assert stored.keys() == ATTRIBUTES.keys()
    for condition in CONDITIONS:
        parsed = filters.parse(condition)
        expected = {key for key in stored if meets(stored[key], parsed, key)}
        found = client.search(code=bytes(8), k=100, filter=condition, collection=filled)
        assert {hit.key for hit in found.hits} == expected, condition
        assert client.count(filter=condition, collection=filled).count == len(expected), condition
        for consistency in ("one", "quorum"):
            listed = client.scroll(filter=condition, collection=filled, consistency=consistency)
            assert {record.key for record in listed} == expected, condition


def test_answers_that_are_easy_to_get_wrong(client: Client, filled: str) -> None:
    def keys(condition: dict[str, Any]) -> set[str]:
        return {record.key.partition("/")[2] for record in client.scroll(filter=condition, collection=filled)}

    assert keys({"a": None}) == {"null", "list"}
    assert keys({"a": {"$exists": False}}) == {"empty"}
    assert keys({"a": 1}) == {"one", "float", "list"}
    assert keys({"a": 2**53 + 1}) == {"next"}
    assert keys({"a": {"$gt": 2**53, "$lt": 2**63 - 1}}) == {"next"}
    assert keys({"a": MAY}) == {"may"}
    # A text that the user wrote is compared as it is: its zone is not interpreted.
    assert keys({"a": {"$gt": MAY.date(), "$lt": MAY}}) == set()
    assert keys({"a": {"$gt": MAY, "$lt": datetime.date(2026, 5, 2)}}) == {"other-zone"}


def test_a_field_that_no_record_has_matches_nothing_and_is_warned_of(client: Client, collection: str) -> None:
    positive, negative = {"delete": True}, {"$not": {"delete": True}}

    def ask(expected: list[str], warning: str | None) -> None:
        for condition, keys in ((positive, []), (negative, expected)):
            found = client.search(code=bytes(8), filter=condition, collection=collection)
            count = client.count(filter=condition, collection=collection)
            page = client.scroll_page(filter=condition, collection=collection)
            facets = client.facets("delete", filter=condition, collection=collection)
            assert sorted(hit.key for hit in found.hits) == sorted(record.key for record in page.records) == keys
            assert (count.count, facets.facets) == (len(keys), [])
            for answer in (found, count, page, facets):
                assert len(answer.warnings) == (warning is not None)
                assert all(warning and text.endswith(warning) for text in answer.warnings)

    ask([], "no record has a field 'delete', so no condition on it holds; known fields: none")
    client.upsert([Record("a", code=bytes(8))], collection=collection)
    ask(["a"], "known fields: none")
    client.upsert([Record("b", code=bytes(8), attributes={"deleted": False, "n": 1})], collection=collection)
    ask(["a", "b"], "similar fields: 'deleted'")
    client.upsert([Record("c", code=bytes(8), attributes={"delete": True})], collection=collection)
    client.delete(["c"], collection=collection)
    ask(["a", "b"], None)


def test_writes_by_a_filter_on_an_unknown_field_change_nothing_and_say_so(
    client: Client, cluster: Cluster, collection: str
) -> None:
    client.upsert([Record("a", code=bytes(8), attributes={"label": "cat"})], collection=collection)
    writes: list[Callable[[], int]] = [
        lambda: client.delete_by_filter({"lable": "cat"}, collection=collection),
        lambda: client.set_attributes({"n": 1}, filter={"lable": "cat"}, collection=collection),
        lambda: client.remove_attributes(["label"], filter={"lable": "cat"}, collection=collection),
        lambda: len(list(client.scroll(filter={"lable": "cat"}, collection=collection))),
    ]
    for write in writes:
        with pytest.warns(UnknownFieldWarning, match="no record has a field 'lable'.* similar fields: 'label'"):
            assert write() == 0
    assert [record.attributes for record in client.scroll(collection=collection)] == [{"label": "cat"}]
    of = ("-c", collection, "--server", cluster.address)
    wrong = ("--filter", '{"lable": "cat"}')
    commands = [
        ("search", "--code", "00" * 8, *wrong), ("count", *wrong), ("list", *wrong), ("facets", "label", *wrong),
        ("set", "-a", '{"n": 1}', *wrong), ("delete", "--yes", *wrong),
    ]  # fmt: skip
    for command in commands:
        code, out, err = lookalike(*command, *of)
        assert (code, err.count("warning: filter: no record has a field 'lable'")) == (0, 1), command
        assert "lable" not in out
    assert json.loads(lookalike("count", *wrong, "--json", *of)[1])["warnings"][0].endswith("'label'")


def test_the_command_line_and_rest_take_the_same_filters(client: Client, cluster: Cluster, filled: str) -> None:
    rest = Rest(cluster.config.coordinator.web)
    path = f"/v1/collections/{filled}/records"
    for condition in CONDITIONS:
        text = json.dumps(condition, default=lambda value: {"$date": value.isoformat()})
        expected = client.count(filter=condition, collection=filled).count
        code, out, _ = lookalike("count", "--filter", text, "-c", filled, "--server", cluster.address)
        assert (code, int(out)) == (0, expected), condition
        body = {"filter": json.loads(text)}
        assert rest.fits("POST", f"{path}/count", body), condition
        answer = rest("POST", f"{path}/count", body)
        assert int(answer.json["count"]) == expected, condition
    old = {"filter": {"in": {"field": "a", "values": [{"text": "cat"}, {"number": 1}]}}}
    assert rest("POST", f"{path}/count", old).json["count"] == "4"
    options = {"k": 9, "filter": {"$key": {"$prefix": "2024/"}}}
    found = rest("POST", f"/v1/collections/{filled}/search", {"query": {"key": "2025/cat"}, "options": options})
    assert len(found.json["hits"]) == 6
    unknown = rest("POST", f"{path}/delete", {"filter": {"b": 1}}).json
    assert unknown["deleted"] == "0"
    assert "no record has a field 'b'" in unknown["warnings"][0]


def test_ingested_times_have_the_form_of_the_sdk(
    client: Client, collection: str, tmp_path: Path, run: Any
) -> None:
    moments = [datetime.datetime(2026, month, 1, 8, 30, 0, 250_000) for month in range(1, 13)]
    rows = {
        "key": [f"m{moment.month}" for moment in moments],
        "code": [moment.month.to_bytes(8, "big") for moment in moments],
        "taken": pa.array(moments, pa.timestamp("ns", "Europe/Berlin")),
        "day": [moment.date() for moment in moments],
    }
    parquet.write_table(pa.table(rows), tmp_path / "columns.parquet")
    # A list makes the batch be read as rows.
    parquet.write_table(pa.table({**rows, "seen": [[moment] for moment in moments]}), tmp_path / "rows.parquet")
    lines = [
        f"m{moment.month},{moment.month:016x},{moment.isoformat(sep=' ')}+00:00,{moment.date()}"
        for moment in moments
    ]
    (tmp_path / "cells.csv").write_text("\n".join(["key,code,taken,day", *lines]))
    may, june = datetime.datetime(2026, 5, 1, 8, 30, 0, 250_000), datetime.date(2026, 6, 1)
    for name in ("columns.parquet", "rows.parquet", "cells.csv"):
        summary, letters = run(tmp_path / name, collection=collection)
        assert (summary["stored"], letters) == (12, []), name
        (record,) = client.get(["m5"], collection=collection)
        assert record.attributes["taken"] == "2026-05-01T08:30:00.250000Z", name
        assert record.attributes["day"] == "2026-05-01", name
        found = client.scroll(filter={"taken": {"$gte": may, "$lt": june}}, collection=collection)
        assert [one.key for one in found] == ["m5"], name
        assert client.count(filter={"taken": {"$gte": "2026-05-01"}}, collection=collection).count == 8, name
        assert client.count(filter={"day": {"$gt": may.date()}}, collection=collection).count == 7, name
        client.delete_by_filter({"$key": {"$prefix": "m"}}, collection=collection)


def test_a_hundred_thousand_values_are_answered(client: Client, cluster: Cluster, collection: str) -> None:
    keys = [f"2024/{number:06d}" for number in range(2_000)]
    client.upsert(
        [Record(key, code=bytes(8), attributes={"n": number}) for number, key in enumerate(keys)],
        collection=collection,
    )
    others = [f"2025/{number:06d}" for number in range(99_000)]
    condition = {"$key": {"$in": keys[:1_000] + others}}
    started = time.monotonic()
    assert client.count(filter=condition, collection=collection).count == 1_000
    assert client.count(filter={"$not": condition}, collection=collection).count == 1_000
    assert time.monotonic() - started < 30
    numbers = {"n": {"$in": [*range(500), 0.5, "x", None, *range(10**6, 10**6 + 99_000)]}}
    assert client.search(code=bytes(8), k=1_000, filter=numbers, collection=collection).coverage.complete
    assert client.delete_by_filter(numbers, collection=collection) == 500
    assert client.delete_by_filter(condition, collection=collection) == 500
    path = f"/v1/collections/{collection}/records/count"
    assert Rest(cluster.config.coordinator.web)("POST", path, {"filter": condition}).json["count"] == "0"
    with pytest.raises(InvalidRequest, match=r"takes 1\.\.100,000 values, not 101,000"):
        client.count(filter={"$key": {"$in": [*others, *keys]}}, collection=collection)
