"""The command line: what it prints, as text and as JSON, and its exit codes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import Client, Record
from lookalike.cli import view
from tests.command import lookalike
from tests.conftest import Cluster


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.CompletedProcess(arguments, *lookalike(*arguments))


def document(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def failure(*arguments: object) -> str:
    """The one line that a failing command prints."""
    result = run(*arguments)
    assert result.returncode != 0
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_commands_create_search_and_drop_a_collection(cluster: Cluster, client: Client) -> None:
    at = ("--server", cluster.address)
    assert document("collection", "create", "cli", "--bits", 64, *at)["code_space"]["bits"] == 64
    client.upsert([Record(f"k{i}", code=bytes([i] * 8), attributes={"n": i}) for i in range(9)], collection="cli")
    assert document("collection", "show", "cli", *at)["rows"] == 9
    assert "cli" in {found["name"] for found in document("collection", "list", *at)}
    of = ("-c", "cli", *at)
    found = document("search", "--code", "00" * 8, "-k", 2, "--filter", '{"n": {"$gte": 3}}', *of)
    assert [hit["attributes"]["n"] for hit in found["hits"]] == [8, 4]
    assert found["coverage"]["complete"]
    text = run("search", "--key", "k1", "-k", 1, *of).stdout
    assert "8 bits" in text
    assert "exact: 3 of 3 partitions, 9 of 9 rows" in text
    assert [record["key"] for record in document("get", "k3", "k4", *of)] == ["k3", "k4"]
    assert run("get", "k3", "nobody", *of).returncode == 1
    assert document("delete", "k3", "nobody", *of) == {"deleted": 1}
    assert "keys: give keys or --filter" in failure("delete", *of)
    assert "keys: give keys or --filter" in failure("set", "k1", "--filter", '{"n": 1}', *of)
    assert document("collection", "drop", "cli", "--yes", *at) == {"dropped": "cli"}


def test_search_pages_groups_and_leaves_out_keys(cluster: Cluster, client: Client, collection: str) -> None:
    client.upsert(
        [
            Record(f"k{i:02}", code=bytes([0] * 7 + [2**i - 1]), attributes={"label": "cd"[i % 2]})
            for i in range(9)
        ],
        collection=collection,
    )
    of = ("--code", "00" * 8, "-c", collection, "--server", cluster.address)
    first = document("search", "-k", 2, *of)
    assert ([hit["key"] for hit in first["hits"]], first["more"]) == (["k00", "k01"], True)
    onward = document("search", "-k", 2, "--after", first["cursor"], *of)
    assert [hit["key"] for hit in onward["hits"]] == ["k02", "k03"]
    assert document("search", "-k", 2, "--offset", 2, *of)["hits"] == onward["hits"]
    without = ("--exclude-key", "k00", "--exclude-key", "k02")
    assert [hit["key"] for hit in document("search", "-k", 2, *without, *of)["hits"]] == ["k01", "k03"]
    lines = run("search", "--all", "--max-distance", 5, "--json", *of).stdout.splitlines()
    assert [json.loads(line)["key"] for line in lines] == [f"k{i:02}" for i in range(6)]
    assert run("search", "--all", "--max-distance", 5, *of).stdout.count("bits") == 6
    text = run("search", "-k", 2, "--max-distance", 5, *of).stdout
    assert text.endswith("more records are within 5 bits: use --all, or a larger -k\n")
    grouped = document("search", "-k", 2, "--group-by", "label", "--group-size", 2, *without, *of)["groups"]
    assert [(group["value"], [hit["key"] for hit in group["hits"]]) for group in grouped] == [
        ("d", ["k01", "k03"]),
        ("c", ["k04", "k06"]),
    ]
    text = run("search", "-k", 1, "--group-by", "label", *of).stdout
    assert text.startswith('"c"\n  1      0 bits  1.0000  k00')
    assert "after: 'no' is not a cursor that an answer came with" in failure("search", "--after", "no", *of)


def test_commands_count_list_and_change_records(cluster: Cluster, client: Client, collection: str) -> None:
    attributes = [{"n": i, "label": "cat" if i % 2 else "döner"} for i in range(9)]
    client.upsert(
        [Record(f"k{i}", code=bytes([i] * 8), attributes=found) for i, found in enumerate(attributes)],
        collection=collection,
    )
    of = ("-c", collection, "--server", cluster.address)
    cats = ("--filter", '{"label": "cat"}')
    assert run("count", *of).stdout == "9\n"
    assert document("count", *cats, *of)["count"] == 4
    lines = run("list", *cats, "--json", *of).stdout.splitlines()
    assert {json.loads(line)["key"] for line in lines} == {"k1", "k3", "k5", "k7"}
    assert json.loads(lines[0])["attributes"]["label"] == "cat"
    text = run("list", "--filter", '{"n": 4}', "--codes", *of).stdout
    assert text == 'k4\t0404040404040404\t{"n": 4, "label": "döner"}\n'
    assert len(run("list", "--limit", 3, *of).stdout.splitlines()) == 3
    assert run("facets", "label", *of).stdout == '5\t"döner"\n4\t"cat"\n'
    assert run("facets", "n", "--limit", 1, *of).stdout == "1\t0\n8\tin 8 other values\n"
    assert document("facets", "label", *cats, *of)["facets"] == [{"value": "cat", "count": 4}]
    assert document("set", "-a", '{"seen": true}', "--remove", "n", *cats, *of) == {"changed": 4}
    assert run("set", "k0", "nobody", "-a", '{"seen": true}', *of).stdout == "changed 1\n"
    assert client.get(["k1"], collection=collection)[0].attributes == {"label": "cat", "seen": True}
    assert run("delete", "--filter", '{"seen": true}', "--yes", *of).stdout == "deleted 5\n"
    assert client.count(collection=collection).count == 4


def test_status_lists_every_partition(cluster: Cluster) -> None:
    assert len(document("status", "--server", cluster.address)["partitions"]) == 3
    assert run("status", "--server", cluster.address).stdout.count("serving") == 3


@pytest.mark.parametrize("command", ["status", "rebalance status", "rebalance status --json"])
def test_broken_pipe_is_not_an_error(cluster: Cluster, command: str) -> None:
    script = f"PYTHONUNBUFFERED=1 {sys.executable} -m lookalike {command} --server {cluster.address} | grep -q ."
    for _ in range(3):
        subprocess.run(["bash", "-o", "pipefail", "-c", script], check=True)


@pytest.mark.parametrize(
    ("options", "output", "code", "error"),
    [
        ("status", ">&-", 0, ""),
        ("status --json", ">&-", 0, ""),
        ("status", "> /dev/full", 1, "error: [Errno 28] No space left on device\n"),
        ("--help", "> /dev/full", 1, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_a_closed_or_full_output_prints_no_traceback(
    cluster: Cluster, options: str, output: str, code: int, error: str
) -> None:
    script = f"LOOKALIKE_SERVER={cluster.address} {sys.executable} -m lookalike {options} {output}"
    result = subprocess.run(["bash", "-c", script], stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (code, error)


def test_deleting_commands_refuse_without_a_terminal(cluster: Cluster, client: Client, collection: str) -> None:
    client.upsert([Record("a", code=bytes(8), attributes={"n": 1})], collection=collection)
    at = ("--server", cluster.address)
    assert f"add --yes to drop collection {collection!r} with 1 records" in failure(
        "collection", "drop", collection, *at
    )
    assert f"add --yes to delete 1 records of {collection!r}" in failure(
        "delete", "--filter", '{"n": 1}', "-c", collection, *at
    )
    assert client.count(collection=collection).count == 1


@pytest.mark.parametrize(("answer", "code", "rows"), [(b"n\n", 1, [3]), (b"\n", 1, [3]), (b"y\n", 0, [])])
def test_a_drop_asks_on_a_terminal(
    cluster: Cluster, client: Client, collection: str, answer: bytes, code: int, rows: list[int]
) -> None:
    client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(3)], collection=collection)
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "lookalike", "collection", "drop", collection, "--server", cluster.address]
    with subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner) as process:
        os.close(inner)
        shown = b""
        while b"[y/N]" not in shown:
            shown += os.read(outer, 65_536)
        assert f"Drop collection {collection!r} with 3 records?".encode() in shown
        os.write(outer, answer)
        assert process.wait(20) == code
    os.close(outer)
    assert [found.rows for found in client.list_collections() if found.name == collection] == rows


def test_status_watch_restores_the_terminal(cluster: Cluster) -> None:
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "lookalike", "status", "--watch", "--server", cluster.address]
    with subprocess.Popen(command, stdin=inner, stdout=inner, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(inner)
        shown = b""
        while b"Ctrl-C ends" not in shown or b"queries a second" not in shown:
            shown += os.read(outer, 65_536)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):  # Linux reports the closed terminal as an error
            while more := os.read(outer, 65_536):
                shown += more
        assert process.wait(10) == 0
    os.close(outer)
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 1
    # At 80 columns, as here, a shard's address is not shortened.
    assert all(cluster.config.shard_address(partition).encode() in shown for partition in range(3))


def test_status_watch_shows_query_rate_and_latency(cluster: Cluster, client: Client) -> None:
    client.create_collection("watched", bits=64)
    command = [sys.executable, "-m", "lookalike", "status", "--watch", "--json", "--interval", "0.1"]
    with subprocess.Popen([*command, "--server", cluster.address], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert first["rates"] is None
        for _ in range(20):
            client.search(code=bytes(8), collection="watched")
        seen = [first]
        while seen[-1]["coordinator"]["queries"] < first["coordinator"]["queries"] + 20:
            seen.append(json.loads(process.stdout.readline()))
        process.terminate()
    client.drop_collection("watched")
    for before, after in itertools.pairwise(seen):
        answered = after["coordinator"]["queries"] - before["coordinator"]["queries"]
        assert (after["rates"]["queries_per_second"] > 0) == (answered > 0)
    assert any((document["rates"] or {}).get("p50_ms") for document in seen)


def test_unserved_slots_are_not_reported_as_balanced(cluster: Cluster, client: Client) -> None:
    found = client.status()
    assert view.rebalance_line(found).startswith("balanced, ")
    missing = dataclasses.replace(found.rebalance, slots_unserved=340)
    line = view.rebalance_line(dataclasses.replace(found, rebalance=missing))
    assert line.startswith("0 slots to move, 0 moving, 340 unserved")


def test_errors_are_one_line(cluster: Cluster, tmp_path: Path) -> None:
    at = ("--server", cluster.address)
    assert "does not exist" in failure("search", "--key", "a", "-c", "nowhere", *at)
    assert "exactly one of image, code and key" in failure("search", *at)
    assert "not hexadecimal" in failure("search", "--code", "xyz", *at)
    bad_filter = failure("search", "--key", "a", "--filter", "{", *at)
    assert "filter: is not JSON" in bad_filter
    assert """write it as in '{"label": "cat"}'""" in bad_filter
    assert "name a file that contains the key" in failure("--api-key-file", tmp_path / "none", "status", *at)
    assert "cannot be read" in failure("search", tmp_path / "none.jpg", *at)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "nothing listens there; is the cluster up?" in failure(
        "status", "--server", f"127.0.0.1:{port}", "--timeout", 2
    )
    shard = cluster.config.shard_address(0)
    assert f"server: {shard} is not a coordinator" in failure("status", "--server", shard)
    assert run("search", "--no-such-option").returncode == 2


def test_every_command_has_help() -> None:
    listed = run("--help").stdout
    for command in ("up", "demo", "ingest", "search", "get", "delete", "collection", "status", "fit"):
        assert command in listed
        assert run(command, "--help").returncode == 0


def test_features_and_reranking_by_command(cluster: Cluster, client: Client, tmp_path: Path) -> None:
    at = ("--server", cluster.address)
    made = document(
        "collection", "create", "ranked", "--bits", 64, "--features", "int8", "--feature-width", 3, *at
    )
    assert made["indexing"]["features"] == "int8"
    assert "features int8" in run("collection", "show", "ranked", *at).stdout
    vectors = np.eye(3, dtype=np.float32)
    client.upsert([Record(f"k{i}", code=bytes(8), features=vectors[i]) for i in range(3)], collection="ranked")
    of = ("-c", "ranked", *at)
    found = document("search", "--key", "k1", "--rerank", "features", "--oversampling", 2, "-k", 1, *of)
    assert found["hits"][0]["score"] == 0
    text = run("search", "--key", "k1", "--rerank", "features", "--oversampling", 1, "-k", 1, *of).stdout
    assert "among candidates: 3 of 3 partitions" in text
    assert "projections: are missing" in failure("search", "--key", "k1", "--score", "asymmetric", *of)
    assert "has none" in failure("collection", "hash", "ranked", "--output", tmp_path / "hash.npz", *at)
    client.drop_collection("ranked")


def test_a_command_with_missing_packages_names_them_and_others_work() -> None:
    """As in a client's installation, without the extras."""
    program = (
        "import sys; sys.modules['fsspec'] = sys.modules['numba'] = None; from lookalike.cli import main; main()"
    )

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, text = run("--help")
    assert code == 0
    assert "status" in text
    assert "(needs fsspec" in text
    assert run("backup", "somewhere", "--collection", "c") == (
        1,
        "error: backup: needs fsspec, which is not installed; run pip install '.[all]' in the checkout\n",
    )
