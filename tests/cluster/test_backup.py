"""Backups are taken while the cluster serves, verified, and restored into a different number of partitions."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import Client, Record
from lookalike.cluster.dump import Head, Mark
from lookalike.cluster.slots import all_slots, no_slots
from lookalike.jobs.backup import backup as backups
from lookalike.jobs.backup import restore as restores
from lookalike.jobs.backup.folder import Folder
from lookalike.model.errors import (
    AlreadyExists,
    CodeSpaceMismatch,
    Corruption,
    InvalidRequest,
    NotFound,
    Overloaded,
)
from lookalike.model.records import VersionedRecord
from tests.command import lookalike
from tests.conftest import Cluster, running_cluster

ROWS = 2_000
WIDTH = 16


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("source"), partitions=3, replicas=2) as running:
        yield running


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("target"), partitions=2) as running:
        yield running


def fill(client: Client, name: str, seed: int = 0) -> dict[str, Record]:
    """A collection with codes, attributes and features."""
    rng = np.random.default_rng(seed)
    client.create_collection(name, bits=64, index_attributes=["n"], features="int8", feature_width=WIDTH)
    records = {
        f"k{i}": Record(
            f"k{i}", code=rng.integers(0, 256, 8, np.uint8).tobytes(), attributes={"n": i, "ö": "ü"},
            features=rng.standard_normal(WIDTH).astype(np.float32),
        )
        for i in range(ROWS)
    }  # fmt: skip
    client.upsert(records.values(), collection=name)
    return records


def command(*arguments: str) -> dict[str, Any]:
    """Run `lookalike` with --json; fails the test unless it exits with 0."""
    code, said, complaint = lookalike(*arguments, "--json")
    assert code == 0, complaint
    found: dict[str, Any] = json.loads(said)
    return found


def content(client: Client, name: str, keys: list[str]) -> dict[str, tuple[bytes, Any]]:
    return {found.key: (found.code, found.attributes) for found in client.get(keys, collection=name)}


def test_a_backup_restores_into_a_different_number_of_partitions(
    source: Cluster, target: Cluster, tmp_path: Path
) -> None:
    with source.client() as client, target.client() as other:
        records = fill(client, "photos")
        first = command("backup", str(tmp_path), "-c", "photos", "--server", source.address)
        assert (first["records"], first["rows"], first["base"]) == (ROWS, ROWS, None)

        client.delete(["k0", "k1"], collection="photos")
        client.upsert([Record("new", code=bytes(8), features=np.ones(WIDTH, np.float32))], collection="photos")
        client.upsert([Record("k2", code=b"\xff" * 8, features=np.ones(WIDTH, np.float32))], collection="photos")
        second = command("backup", str(tmp_path), "-c", "photos", "--server", source.address)
        assert (second["records"], second["rows"], second["base"]) == (4, ROWS - 1, 1)

        command("restore", str(tmp_path), "-c", "photos", "--server", target.address)
        keys = [*records, "new"]
        assert content(other, "photos", keys) == content(client, "photos", keys)
        assert other.get_collection("photos").indexing == client.get_collection("photos").indexing
        query = {"code": records["k7"].code, "features": records["k7"].features, "collection": "photos", "k": 50}
        answers = [c.search(**query, rerank="features") for c in (client, other)]  # type: ignore[arg-type]
        assert [(hit.key, hit.score) for hit in answers[0].hits] == [
            (hit.key, hit.score) for hit in answers[1].hits
        ]

        command(
            "restore", str(tmp_path), "-c", "photos", "--number", "1", "--into", "old", "--server", target.address
        )
        assert set(content(other, "old", keys)) == set(records)


def test_a_deletion_in_an_incremental_backup_is_restored(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("chained", bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(500)], collection="chained")
        folder = Folder(str(tmp_path), "chained")
        assert backups.take(client, folder, full=False, retry_seconds=30).records == 500
        client.delete(["k3"], collection="chained")
        assert backups.take(client, folder, full=False, retry_seconds=30).records == 1
        assert backups.take(client, folder, full=True, retry_seconds=30).records == 499
        chain = folder.chain(2)
        assert [manifest.number for manifest in chain] == [1, 2]
        assert restores.restore(client, folder, chain, "as-it-was", merge=False) == 499
        assert client.get(["k3"], collection="as-it-was") == []


def test_restore_leaves_an_existing_collection_unchanged_by_default(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("kept", bits=64)
        client.upsert([Record("a", code=bytes(8))], collection="kept")
        folder = Folder(str(tmp_path), "kept")
        backups.take(client, folder, full=False, retry_seconds=30)
        client.upsert([Record("a", code=b"\1" * 8), Record("b", code=b"\2" * 8)], collection="kept")
        with pytest.raises(AlreadyExists, match="--merge"):
            restores.restore(client, folder, folder.chain(1), "kept", merge=False)
        assert restores.restore(client, folder, folder.chain(1), "kept", merge=True) == 2
        assert content(client, "kept", ["a", "b"]) == {"a": (bytes(8), {}), "b": (b"\2" * 8, {})}
        client.create_collection("other", bits=128)
        with pytest.raises(CodeSpaceMismatch, match="--into"):
            restores.restore(client, folder, folder.chain(1), "other", merge=True)


def test_a_recreated_collection_gets_a_full_backup(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        folder = Folder(str(tmp_path), "again")
        for size in (30, 5):
            client.create_collection("again", bits=64)
            client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(size)], collection="again")
            manifest = backups.take(client, folder, full=False, retry_seconds=30)
            assert (manifest.base, manifest.records) == (None, size)
            client.drop_collection("again")


@pytest.mark.parametrize("harm", ["flip", "cut", "remove"])
def test_a_damaged_backup_is_rejected_before_any_write(source: Cluster, tmp_path: Path, harm: str) -> None:
    with source.client() as client:
        name = f"harmed-{harm}"
        client.create_collection(name, bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(200)], collection=name)
        folder = Folder(str(tmp_path), name)
        manifest = backups.take(client, folder, full=False, retry_seconds=30)
        file = tmp_path / name / "000001" / manifest.parts[-1].file
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        if harm == "remove":
            file.unlink()
        else:
            file.write_bytes(bytes(data) if harm == "flip" else bytes(data)[:-3])
        with pytest.raises(Corruption, match=r"part-\d+"):
            restores.verify(folder, folder.chain(1))
        code, _, said = lookalike("restore", tmp_path, "-c", name, "--into", "never", "--server", source.address)
        assert code == 1
        assert said.startswith("error: ")
        assert said.count("\n") == 1
        assert "never" not in [found.name for found in client.list_collections()]


def test_files_of_an_interrupted_backup_are_ignored(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("cut-short", bits=64)
        client.upsert([Record("a", code=bytes(8))], collection="cut-short")
        folder = Folder(str(tmp_path), "cut-short")
        with folder.open(1, "part-0000.pb.gz", "wb") as file:
            file.write(b"unfinished")
        manifest = backups.take(client, folder, full=False, retry_seconds=30)
        assert (manifest.number, manifest.base, folder.finished()) == (2, None, [2])


def test_no_incremental_backup_builds_on_an_unrestorable_one(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("pruned", bits=64)
        client.upsert([Record("a", code=bytes(8)), Record("b", code=bytes(8))], collection="pruned")
        folder = Folder(str(tmp_path), "pruned")
        first = backups.take(client, folder, full=False, retry_seconds=30)
        assert backups.take(client, folder, full=False, retry_seconds=30).base == 1
        (tmp_path / "pruned" / "000001" / first.parts[0].file).unlink()
        again = backups.take(client, folder, full=False, retry_seconds=30)
        assert (again.base, again.records) == (None, 2)


def test_an_unwritable_folder_is_one_clear_error(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("nowhere", bits=64)
    (tmp_path / "file").write_text("not a folder")
    for url in (str(tmp_path / "file"), "/proc/nowhere", "nothing://bucket"):
        code, _, said = lookalike("backup", url, "-c", "nowhere", "--server", source.address)
        assert code == 1
        assert said.startswith("error: url: ")
        assert said.count("\n") == 1


def test_concurrent_backups_leave_a_restorable_one(source: Cluster, tmp_path: Path) -> None:
    with source.client() as client:
        client.create_collection("twice", bits=64)
        client.upsert([Record(f"k{i}", code=bytes(8)) for i in range(300)], collection="twice")
        folder = Folder(str(tmp_path), "twice")

        def take() -> None:
            with contextlib.suppress(AlreadyExists):
                backups.take(client, folder, full=False, retry_seconds=30)

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        last = folder.finished()[-1]
        restores.verify(folder, folder.chain(last))
        assert restores.restore(client, folder, folder.chain(last), "once", merge=False) == 300


@pytest.mark.parametrize("field", ["rows", "parts", "base"])
def test_a_changed_manifest_is_detected(source: Cluster, tmp_path: Path, field: str) -> None:
    with source.client() as client:
        name = f"manifest-{field}"
        client.create_collection(name, bits=64)
        folder = Folder(str(tmp_path), name)
        backups.take(client, folder, full=False, retry_seconds=30)
    path = tmp_path / name / "000001" / "manifest.json"
    document = json.loads(path.read_text())
    if field == "rows":
        document["parts"][0]["rows"] = 7
    else:
        document[field] = [] if field == "parts" else "0"
    path.write_text(json.dumps(document))
    with pytest.raises(Corruption, match=r"manifest\.json"):
        folder.chain(1)


def test_invalid_records_in_a_restore_are_rejected_without_affecting_others(source: Cluster) -> None:
    with source.client() as client:
        space = client.create_collection("hostile", bits=64).code_space.fingerprint

        def restore(record: VersionedRecord, fingerprint: str = space) -> None:
            client.restore([VersionedRecord("good", bytes(8), "{}", 0), record], "hostile", fingerprint, "")

        for record in (
            VersionedRecord("k", bytes(9), "{}", 0),
            VersionedRecord("k", bytes(8), '{"\\ud800": 1}', 0),
            VersionedRecord("k", bytes(8), "[1]", 0),
            VersionedRecord("k", bytes(8), '{"a": "' + "x" * 70_000 + '"}', 0),
            VersionedRecord("", bytes(8), "{}", 0),
            VersionedRecord("k", bytes(8), "{}", 0, b"features"),
        ):
            with pytest.raises(InvalidRequest):
                restore(record)
        with pytest.raises(CodeSpaceMismatch):
            restore(VersionedRecord("k", bytes(8), "{}", 0), "0" * 64)
        assert client.get(["k"], collection="hostile") == []
        with pytest.raises(NotFound):
            list(client.backup("unknown", all_slots()))
        with pytest.raises(InvalidRequest, match="slots"):
            list(client.backup("hostile", no_slots()))
        mark = Mark("x" * 32, 2**63, all_slots(), 0, 0)
        with pytest.raises(InvalidRequest, match="since"):
            list(client.backup("hostile", all_slots(), [mark] * 2_000))
        heads = [part for part in client.backup("hostile", all_slots(), [mark]) if isinstance(part, Head)]
        known = dataclasses.replace(heads[0].mark, number=2**64 - 1)
        again = [part for part in client.backup("hostile", all_slots(), [known]) if isinstance(part, Head)]
        assert again[0].whole.any()


def test_an_abandoned_backup_stream_does_not_block_shutdown(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=1) as cluster, cluster.client() as client:
        client.create_collection("c", bits=64)
        rows = [Record(f"k{i}", code=bytes(8), attributes={"a": "x" * 2_000}) for i in range(10_000)]
        client.upsert(rows, collection="c")
        stalled = [client.backup("c", all_slots()) for _ in range(5)]
        for number, dump in enumerate(stalled):
            if number < 4:
                assert isinstance(next(dump), Head)
                continue
            with pytest.raises(Overloaded, match="retry later"):
                next(dump)
        assert len(client.search(code=bytes(8), k=3, collection="c").hits) == 3
        old = cluster.kill("shard-r0-0", signal.SIGTERM)
        cluster.wait_restarted("shard-r0-0", old)
        assert client.get_collection("c").rows == 10_000
