"""Records that are sent as arrays: stored like the same records one by one, with an error for each invalid one."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from lookalike import AsyncClient, Client, Record
from lookalike.client.arrays import split, texts_of_keys
from lookalike.client.sync_ingest import IngestStream
from lookalike.cluster.columns import CodeColumns, Texts
from lookalike.errors import CodeSpaceMismatch, InvalidRequest, NotFound
from lookalike.v1 import search_pb2 as pb
from tests.conftest import Cluster, running_cluster, wait_until

ROWS = 3_000


def codes(count: int = ROWS, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, 8), np.uint8)


def names(count: int = ROWS) -> list[str]:
    return [f"photo/é{number:05d}" for number in range(count)]


def attributes(count: int = ROWS) -> list[dict[str, Any]]:
    return [
        {"label": f"l{n % 7}", "n": n, "share": n / 8, "tags": ["a", n], "is": n % 2 == 0} for n in range(count)
    ]


def test_arrays_equal_records(client: Client, collection: str) -> None:
    report = client.ingest_arrays(names(), codes(), attributes(), collection=collection)
    assert (report.stored, dict(report.errors)) == (ROWS, {})
    found = client.get(names(), collection=collection)
    assert [record.key for record in found] == names()
    assert [record.attributes for record in found] == attributes()
    assert np.array_equal(
        np.frombuffer(b"".join(record.code for record in found), np.uint8).reshape(-1, 8), codes()
    )
    other = f"{collection}-2"
    client.create_collection(other, bits=64)
    records = [
        Record(k, code=c.tobytes(), attributes=a) for k, c, a in zip(names(), codes(), attributes(), strict=True)
    ]
    assert all(outcome.ok for outcome in client.ingest(records, collection=other))
    for row in range(0, ROWS, 300):
        code = codes()[row].tobytes()
        one, two = (client.search(code=code, k=20, collection=name).hits for name in (collection, other))
        assert one == two
    # Later arrays replace earlier ones, whichever way they were written.
    assert client.ingest_arrays(names(10), codes(10, 5), collection=collection).stored == 10
    assert client.get(names(1), collection=collection)[0].attributes == {}
    assert client.get_collection(collection).rows == ROWS


@pytest.mark.parametrize("kind", ["rows", "mapping", "pandas", "arrow", "none"])
def test_every_form_of_attributes_is_stored(client: Client, collection: str, kind: str) -> None:
    rows = [{"label": "a", "n": 1}, {"label": "é\n"}, {"n": 3}]
    columns = {"label": ["a", "é\n", None], "n": [1, None, 3]}
    given: Any = {
        "rows": rows,
        "mapping": columns,
        "pandas": pd.DataFrame({"label": columns["label"], "n": pd.array([1, None, 3], "Int64")}),
        "arrow": pa.table(columns),
        "none": None,
    }[kind]
    keys: Any = pa.array(names(3)) if kind == "arrow" else np.array(names(3)) if kind == "pandas" else names(3)
    packed: Any = pa.array([code.tobytes() for code in codes(3)]) if kind == "arrow" else codes(3)
    assert client.ingest_arrays(keys, packed, given, collection=collection).stored == 3
    expected = [{}, {}, {}] if kind == "none" else rows
    assert [record.attributes for record in client.get(names(3), collection=collection)] == expected


def test_an_invalid_record_is_reported_by_its_index_and_the_others_are_stored(
    client: Client, collection: str, cluster: Cluster
) -> None:
    texts = [
        '{"a":1}',
        "{",
        "[1]",
        '{"a":1},{"b":2}',
        '{"a":NaN}',
        '{"é": 1, "a": 2}',
        '{"a":' + "[" * 99 + "]" * 99 + "}",
    ]
    texts += ['{"a":"\\u0000"}', "", '{"x":[1', "2]}", '{"a":"' + "x" * 70_000 + '"}']
    keys = Texts.of([f"k{row}" for row in range(len(texts))] + ["", "k" * 513, "good"])
    columns = CodeColumns(keys, codes(len(keys)), Texts.of([*texts, "{}", "{}", "{}"]))
    (report,) = client.ingest_columns([columns], collection=collection)
    words = {row: str(error) for row, error in report.errors.items()}
    assert sorted(words) == [1, 2, 3, 4, 6, 7, 9, 10, 11, 12, 13]
    assert report.stored == 4
    assert "record 'k1': attributes: are not valid JSON" in words[1]
    assert "are a JSON list, not an object" in words[2]
    assert "nested over 64 deep" in words[6]
    assert words[12].startswith("key: is empty")
    found = {
        record.key: record.attributes for record in client.get(["k0", "k5", "k8", "good"], collection=collection)
    }
    assert found == {"k0": {"a": 1}, "k5": {"é": 1, "a": 2}, "k8": {}, "good": {}}
    assert client.get_collection(collection).rows == 4


def test_bytes_that_are_not_utf8_are_an_error_of_their_record(client: Client, collection: str) -> None:
    keys = Texts(b"a\xc3\xa9b\xff", np.array([2, 3, 4, 5]))  # "é" is cut in two, and one byte is no text
    (report,) = client.ingest_columns([CodeColumns(keys, codes(4), Texts.repeat("{}", 4))], collection=collection)
    assert sorted(report.errors) == [0, 1, 3]
    assert all("is not UTF-8" in str(error) for error in report.errors.values())
    assert client.get(["b"], collection=collection)[0].key == "b"


@pytest.mark.parametrize(
    ("keys", "packed", "given", "words"),
    [
        ("a", codes(1), None, "keys: is one str; give a list"),
        (["a", 1], codes(2), None, "key: is int, not a string"),
        (["a"], codes(2), None, "codes: are 2 for 1 keys"),
        (["a"], [[1.0]], None, "codes: number 0 is list; give bytes"),
        (["a", "b"], [b"12345678", b"1"], None, "codes: number 1 is 1 bytes"),
        (["a"], codes(1).astype(float), None, "codes: are float64"),
        (["a"], codes(1), [{}, {}], "attributes: are 2 for 1 keys"),
        (["a"], codes(1), {"n": [1, 2]}, "column 'n' has 2 values for 1 keys"),
        (["a"], codes(1), {"n": [float("nan")]}, "column 'n', row 0"),
        (["a"], codes(1), {"n": [b"bytes"]}, "column 'n', row 0: .*bytes is not JSON"),
        (pa.array(["a", None]), codes(2), None, "keys: 1 are null"),
        (pa.array([1]), codes(1), None, "keys: are an Arrow array of int64"),
    ],
)
def test_malformed_arrays_are_refused_before_anything_is_sent(
    client: Client, collection: str, keys: Any, packed: Any, given: Any, words: str
) -> None:
    with pytest.raises(InvalidRequest, match=words):
        client.ingest_arrays(keys, packed, given, collection=collection)
    assert client.get_collection(collection).rows == 0


def test_columns_that_no_record_can_be_stored_from_are_refused(client: Client, collection: str) -> None:
    report = client.ingest_arrays(["a"], [b"short"], collection=collection)
    assert "have 5 bytes, the collection's have 8 (64 bits)" in str(report.errors[0])
    with pytest.raises(NotFound):
        client.ingest_arrays(["a"], codes(1), collection="missing")
    report = client.ingest_arrays(["a"], codes(1), collection=collection, fingerprint="f" * 64)
    assert isinstance(report.errors[0], CodeSpaceMismatch)
    name = f"{collection}-features"
    client.create_collection(name, bits=64, features="int8", feature_width=4)
    report = client.ingest_arrays(["a"], codes(1), collection=name)
    assert "hold no features, which this collection stores; send records" in str(report.errors[0])


def test_malformed_messages_end_the_stream_with_the_reason(client: Client, collection: str) -> None:
    message = pb.IngestRequest(collection=collection)
    message.columns.keys = b"ab"
    message.columns.key_ends = b"\x01\0\0\0"
    with pytest.raises(InvalidRequest, match="the ends of keys must ascend to 2"):
        list(IngestStream(client._coordinators, client._calls, 10).responses(iter([message])))


def test_large_columns_are_split_into_messages() -> None:
    keys = texts_of_keys(names(40_000))
    parts = list(split(CodeColumns(keys, codes(40_000), Texts.repeat("{}", 40_000))))
    assert [len(part) for part in parts] == [16_384, 16_384, 7_232]
    assert [key for part in parts for key in part.keys.strings()] == names(40_000)
    wide = CodeColumns(texts_of_keys(names(300)), codes(300), Texts.repeat("x" * 60_000, 300))
    parts = list(split(wide))
    assert len(parts) == 3
    assert sum(map(len, parts)) == 300


def test_arrays_through_the_asynchronous_client(cluster: Cluster, collection: str) -> None:
    async def ingest() -> int:
        async with AsyncClient(cluster.address) as client:
            return (await client.ingest_arrays(names(), codes(), attributes(), collection=collection)).stored

    assert asyncio.run(ingest()) == ROWS


def test_arrays_survive_a_killed_shard_and_a_resharding(tmp_path_factory: pytest.TempPathFactory) -> None:
    total, batch = 60_000, 2_000
    with (
        running_cluster(tmp_path_factory.mktemp("arrays"), 2, replicas=2) as cluster,
        cluster.client(60) as client,
    ):
        client.create_collection("c", bits=64)
        every, made = names(total), codes(total)
        stored = []

        def ingest() -> None:
            for start in range(0, total, batch):
                part = slice(start, start + batch)
                report = client.ingest_arrays(every[part], made[part], collection="c")
                while report.errors:
                    again = [start + row for row in report.errors]
                    report = client.ingest_arrays([every[row] for row in again], made[again], collection="c")
                stored.append(start)

        worker = threading.Thread(target=ingest)
        worker.start()
        try:
            old = cluster.kill("shard-r0-0", signal.SIGKILL)
            cluster.reload(cluster.config.model_copy(update={"partitions": 3}))
            cluster.wait_restarted("shard-r0-0", old)
        finally:
            worker.join()
        assert len(stored) == total // batch
        found = [
            record
            for start in range(0, total, 10_000)
            for record in client.get(every[start : start + 10_000], collection="c")
        ]
        assert [record.key for record in found] == every
        assert b"".join(record.code for record in found) == made.tobytes()


def test_a_job_of_columns_survives_a_killed_shard_and_keeps_the_last_of_equal_keys(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("job")
    distinct, total = 150_000, 300_000
    table = pa.table(
        {
            "key": [f"k{row % distinct}" for row in range(total)],
            "code": [(row % distinct).to_bytes(8, "big") for row in range(total)],
            "row": list(range(total)),
        }
    )
    parquet.write_table(table, folder / "codes.parquet")
    with running_cluster(folder / "data", 2) as cluster, cluster.client(60) as client:
        client.create_collection("c", bits=64)
        command = [sys.executable, "-m", "lookalike", "ingest", str(folder / "codes.parquet"), "-c", "c", "--json"]
        command += ["--server", cluster.address, "--dead-letters", str(folder / "dead.jsonl")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
            wait_until(lambda: client.get_collection("c").rows > 0, 30)
            old = cluster.kill("shard-r0-0", signal.SIGKILL)
            cluster.wait_restarted("shard-r0-0", old)
            output, _ = job.communicate()
        summary = json.loads(output)
        assert (job.returncode, summary["stored"], summary["not_stored"]) == (0, total, 0)
        keys = [f"k{row}" for row in range(distinct)]
        for start in range(0, distinct, 10_000):
            found = client.get(keys[start : start + 10_000], collection="c")
            assert [record.attributes["row"] for record in found] == list(
                range(distinct + start, distinct + start + 10_000)
            )
