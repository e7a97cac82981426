"""Batch jobs that ingest codes and features into a cluster without an encoder."""

from __future__ import annotations

import csv
import json
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from encoder.hashing import drawn
from encoder.ingest.command import ingest
from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.precomputed import open_collection, read_precomputed
from encoder.ingest.selection import Selection
from encoder.ingest.stats import Summary
from encoder.ingest.tables.formats import find_tables
from encoder.progress import progress_bar
from lookalike import Client, CodeSpace
from lookalike.model.errors import (
    CannotStart,
    InvalidRequest,
    NotFound,
    PartitionUnavailable,
)
from lookalike.model.records import Collection
from tests.conftest import Cluster

JPEG = b"\xff\xd8\xff" + b"j" * 300
RNG = np.random.default_rng(5)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def codes_of(n: int) -> list[bytes]:
    return [bytes(row) for row in RNG.integers(0, 256, (n, 8), np.uint8)]


def test_parquet_with_columns_as_attributes(client: Client, collection: str, run: Any, tmp_path: Path) -> None:
    codes = codes_of(3_000)
    table = pa.table(
        {
            "key": [f"k{i}" for i in range(3_000)],
            "code": pa.array(codes, pa.binary(8)),
            "year": pa.array([None if i % 3 == 0 else 2_000 + i % 20 for i in range(3_000)], pa.int64()),
            "tags": [["a", "b"]] * 3_000,
            "thumbnail": [JPEG if i == 7 else None for i in range(3_000)],
        }
    )
    parquet.write_table(table, tmp_path / "codes.parquet", row_group_size=700)
    summary, dead = run(tmp_path / "codes.parquet", collection=collection)
    assert (summary["found"], summary["stored"], dead) == (3_000, 3_000, [])
    records = client.get(["k0", "k7", "k2999"], collection=collection, include_thumbnails=True)
    assert [record.attributes for record in records] == [
        {"tags": ["a", "b"]},
        {"year": 2_007, "tags": ["a", "b"]},
        {"year": 2_019, "tags": ["a", "b"]} if 2_999 % 3 else {"tags": ["a", "b"]},
    ]
    assert [record.code for record in records] == [codes[0], codes[7], codes[2_999]]
    assert [record.thumbnail for record in records] == [b"", JPEG, b""]


def test_json_lines_and_csv_hold_codes_in_hexadecimal(
    client: Client, collection: str, run: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"key": "a", "code": "0011223344556677", "attributes": {"n": 1}, "ignored": 5}\n'
        '\n{"key": "b", "code": "ffffffffffffffff", "n": 2.5}\nno json\n[1]\n'
    )
    with (tmp_path / "b.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["key", "code", "n", "zip", "ok", "empty"], ["c", "00" * 8, "3", "01234", "true", ""]]
        )
    summary, dead = run(tmp_path / "a.jsonl", tmp_path / "b.csv", collection=collection)
    assert (summary["stored"], summary["unreadable"]) == (3, 2)
    assert [letter["uri"].rpartition("#")[2] for letter in dead] == ["row=2", "row=3"]
    found = {record.key: record.attributes for record in client.get(["a", "b", "c"], collection=collection)}
    assert found == {"a": {"n": 1}, "b": {"n": 2.5}, "c": {"n": 3, "zip": "01234", "ok": True}}


def test_dead_letters_can_be_fixed_and_ingested_again(
    client: Client, collection: str, run: Any, tmp_path: Path
) -> None:
    lines = [
        {"key": "good", "code": "00" * 8},
        {"key": "narrow", "code": "0000", "attributes": {"label": "cat"}},
        {"key": "", "code": "00" * 8},
        {"key": "x" * 600, "code": "00" * 8},
        {"key": "nul", "code": "00" * 8, "attributes": {"a": "\0"}},
        {"key": "surrogate", "code": "00" * 8, "attributes": '{"a": "\\ud800"}'},
        {"key": "list", "code": "00" * 8, "attributes": [1]},
        {"key": "hex", "code": "zz", "attributes": {"label": "cow"}},
        {"key": "none"},
    ]
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary, dead = run(tmp_path / "bad.jsonl", collection=collection)
    assert (summary["found"], summary["stored"], summary["unreadable"], summary["not_stored"]) == (9, 1, 8, 0)
    reasons = {letter["key"]: letter["reason"] for letter in dead}
    assert "the collection's codes have 8" in reasons["narrow"]
    assert "exactly that many" in reasons["narrow"]
    for letter in dead:
        if letter["key"] in ("narrow", "hex"):
            letter["code"] = "11" * 8
        if letter["key"] == "":
            letter["key"] = "named"
    (tmp_path / "fixed.jsonl").write_text("".join(json.dumps(letter) + "\n" for letter in dead))
    summary, dead = run(tmp_path / "fixed.jsonl", collection=collection, dead_letters=tmp_path / "again.jsonl")
    # The other letters are not stored: a record must not lose its attributes.
    assert summary["stored"] == 3
    narrow, hexadecimal, named = client.get(["narrow", "hex", "named"], collection=collection)
    assert (narrow.code, narrow.attributes) == (b"\x11" * 8, {"label": "cat"})
    assert (hexadecimal.code, hexadecimal.attributes) == (b"\x11" * 8, {"label": "cow"})
    assert named.code == bytes(8)


def test_dead_letters_cannot_overwrite_the_input(collection: str, run: Any, tmp_path: Path) -> None:
    line = '{"key": "a", "code": "00"}\n'
    (tmp_path / "dead.jsonl").write_text(line)
    with pytest.raises(InvalidRequest, match="name another file"):
        run(tmp_path / "dead.jsonl", collection=collection)
    assert (tmp_path / "dead.jsonl").read_text() == line


def test_a_full_disk_for_dead_letters_ends_the_job(
    cluster: Cluster, client: Client, collection: str, tmp_path: Path
) -> None:
    """Otherwise a refused row that is in no list would be lost."""
    (tmp_path / "m.jsonl").write_text('{"key": "a", "code": "zz"}\n')
    with pytest.raises(CannotStart, match=r"dead-letters: /dev/full cannot be written to \(No space"):
        ingest([str(tmp_path / "m.jsonl")], collection, server=cluster.address, dead_letters=Path("/dev/full"))
    assert client.get_collection(collection).rows == 0


def test_where_and_limit_select_records(client: Client, collection: str, run: Any, tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "code": "00" * 8, "i": i, "even": i % 2 == 0} for i in range(5_000)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary, _ = run(
        tmp_path / "m.jsonl", collection=collection, where='{"even": true, "i": {"$gte": 100}}', limit=50
    )
    assert summary["stored"] == 50
    assert summary["found"] < 5_000
    assert summary["skipped"] == summary["found"] - 50
    keys = [f"k{i}" for i in range(100, 200, 2)]
    assert len(client.get(keys, collection=collection)) == client.get_collection(collection).rows == 50


def test_a_dry_run_checks_and_writes_nothing(client: Client, collection: str, run: Any, tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "code": "a7" * (8 if i else 4)} for i in range(10)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary, dead = run(tmp_path / "m.jsonl", collection=collection, dry_run=True)
    assert (summary["encoded"], summary["unreadable"], summary["stored"]) == (9, 1, 0)
    assert [letter["key"] for letter in dead] == ["k0"]
    assert client.get_collection(collection).rows == 0
    summary, _ = run(tmp_path / "m.jsonl", collection="not-there", dry_run=True)
    assert "not-there" not in {found.name for found in client.list_collections()}


def test_a_missing_collection_is_created_for_the_codes(client: Client, run: Any, tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"key": "a", "code": "' + "0123456789abcdef" * 2 + '"}\n')
    run(tmp_path / "m.jsonl", collection="made-for-codes")
    assert client.get_collection("made-for-codes").code_space == CodeSpace(128)
    (tmp_path / "f.jsonl").write_text('{"key": "a", "features": [1, 2]}\n')
    with pytest.raises(NotFound, match="collection create"):
        run(tmp_path / "f.jsonl", collection="made-for-features")


def test_two_jobs_may_create_the_same_collection(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    class LateClient(Client):
        """Another client creates the collection after this one has looked for it."""

        def get_collection(self, name: str) -> Collection:
            try:
                return super().get_collection(name)
            except NotFound:
                client.create_collection(name, bits=64)
                raise

    (tmp_path / "m.jsonl").write_text('{"key": "a", "code": "' + "a7" * 8 + '"}\n')
    tables = find_tables(str(tmp_path / "m.jsonl"), "jsonl")
    with DeadLetters(tmp_path / "dead.jsonl") as letters, LateClient(cluster.address) as late:
        portions = read_precomputed(tables, Selection(), letters, Summary())
        found, portions = open_collection(late, "made-by-two", tables, portions, letters)
        assert found == client.get_collection("made-by-two")
        assert [ready.key for portion in portions for ready in portion] == ["a"]


def test_features_are_hashed_with_the_hash_of_the_collection(client: Client, run: Any, tmp_path: Path) -> None:
    hashing = drawn(16, 64, 3)
    space = CodeSpace(64, "some-net", "", "pooled", "", hashing.method, hashing.digest)
    client.create_collection(
        "features", code_space=space, hash_file=hashing.to_bytes(), features="float16", feature_width=16
    )
    vectors = RNG.standard_normal((500, 16)).astype(np.float32)
    table = pa.table(
        {"key": [str(i) for i in range(502)], "features": [*vectors.tolist(), [1.0], [0.5] * 15 + [None]]}
    )
    parquet.write_table(table, tmp_path / "f.parquet")
    summary, dead = run(tmp_path / "f.parquet", collection="features")
    assert (summary["stored"], summary["unreadable"]) == (500, 2)
    assert {letter["key"] for letter in dead} == {"500", "501"}
    found = client.get([str(i) for i in range(500)], collection="features")
    assert [record.code for record in found] == [bytes(code) for code in hashing.codes(vectors)]
    result = client.search(collection="features", code=found[3].code, features=vectors[3], rerank="features", k=1)
    assert (result.hits[0].key, round(result.hits[0].score, 3)) == ("3", 1.0)
    client.create_collection("no-hash", bits=64)
    with pytest.raises(InvalidRequest, match="keeps no hash"):
        run(tmp_path / "f.parquet", collection="no-hash")


def test_codes_and_images_cannot_be_mixed(collection: str, run: Any, tmp_path: Path) -> None:
    (tmp_path / "codes.jsonl").write_text('{"key": "a", "code": "00"}\n')
    (tmp_path / "images.jsonl").write_text('{"key": "a", "uri": "a.jpg"}\n')
    with pytest.raises(InvalidRequest, match="ingest each kind in a separate job"):
        run(tmp_path / "codes.jsonl", tmp_path / "images.jsonl", collection=collection)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.parquet", b"PAR1 but not really"),
        ("x.csv", b'key,code\n"a'),
        ("x.json", b'{"images": 3}'),
    ],
)
def test_a_malformed_file_is_one_clear_error(
    collection: str, run: Any, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidRequest, match=f"path: .*{name}.* cannot be read"):
        run(tmp_path / name, collection=collection)


def test_ingest_respects_the_rate_limit(collection: str, run: Any, tmp_path: Path) -> None:
    rows = [{"key": f"k{i}", "code": "00" * 8} for i in range(300)]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    started = time.monotonic()
    run(tmp_path / "m.jsonl", collection=collection, rate=200.0)
    assert time.monotonic() - started >= 0.5


def test_metrics_are_served_while_the_job_runs(collection: str, run: Any, tmp_path: Path) -> None:
    port = free_port()
    rows = [{"key": f"k{i}", "code": "00" * 8, "bad": i} for i in range(40)] + [{"key": "x", "code": "00"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    address, texts = f"127.0.0.1:{port}", []
    job = threading.Thread(
        target=run,
        args=(tmp_path / "m.jsonl",),
        kwargs={"collection": collection, "rate": 20.0, "metrics": address},
    )
    job.start()
    while job.is_alive():
        try:
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
                texts.append(answer.read().decode())
        except OSError:
            time.sleep(0.02)
    job.join()
    assert any('lookalike_ingest_records_total{outcome="read"} 41.0' in text for text in texts)
    assert any('lookalike_ingest_records_total{outcome="failed"} 1.0' in text for text in texts)
    assert all(name in texts[-1] for name in ("lookalike_ingest_bytes_total", "lookalike_ingest_seconds"))


def test_a_folder_without_images_needs_no_cluster_and_no_progress_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a cluster nor Ray, which takes half a minute to start, is needed."""
    (tmp_path / "empty").mkdir()
    ingest([str(tmp_path / "empty")], server="127.0.0.1:1", dead_letters=tmp_path / "dead.jsonl")
    assert "0 images: 0 stored" in capsys.readouterr().out
    with progress_bar(as_json=False) as bar:
        bar.add_task("encoding", total=1)
    assert capsys.readouterr().err == ""


def test_a_wrong_address_fails_immediately(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"key": "a", "code": "00"}\n')
    with pytest.raises(PartitionUnavailable, match="is the cluster up"):
        ingest([str(tmp_path / "m.jsonl")], server=f"127.0.0.1:{free_port()}", dead_letters=tmp_path / "d")


def test_a_job_without_a_record_makes_no_collection(client: Client, run: Any, tmp_path: Path) -> None:
    parquet.write_table(pa.table({"key": ["a"], "code": [b"12345678"]}), tmp_path / "t.parquet")
    with pytest.raises(NotFound):
        run(tmp_path / "t.parquet", collection="never-made", where='{"label": "cat"}')
    with pytest.raises(NotFound, match="never-made"):
        client.get_collection("never-made")


def test_an_encoder_is_refused_for_records_with_codes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "codes.jsonl").write_text('{"key": "a", "code": "AAAAAAAAAAA="}\n')
    with pytest.raises(InvalidRequest, match="encoder: shoes encodes images"):
        run(tmp_path / "codes.jsonl", encoder="shoes", collection="refused")
