"""The store on disk and the shard's folder: ownership, restarts and damage."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.scan import ScanGroup
from lookalike.cluster.slots import all_slots
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import CannotStart, CodeSpaceMismatch, Corruption, InvalidRequest, NotFound
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard import store_reads
from shard.engine import Engine
from shard.membership import Identity
from shard.node import STORE_FILE, Node
from shard.store import Store

SPACE = CodeSpace(64)
ME = Identity("c", 1, 0)


def open_node(folder: Path, identity: Identity = ME) -> Node:
    node = Node(folder, identity)
    node.load()
    return node


def record(key: str, version: int = 1) -> VersionedRecord:
    return VersionedRecord(key, b"12345678", "{}", version)


def test_collections_survive_a_restart(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    assert node.open_collection("c", SPACE, Indexing(), 5, False) == (True, 5)
    assert node.open_collection("c", SPACE, Indexing(), 5, False) == (False, 5)
    assert node.open_collection("c", SPACE, Indexing(), 9, True) == (False, 5)
    node.engine("c").write([record("a"), record("b")])
    node.close()
    node = open_node(tmp_path)
    assert [(c.name, c.rows, c.code_space, c.incarnation) for c in node.collections(all_slots())] == [
        ("c", 2, SPACE, 5)
    ]
    node.close()


def test_collection_in_another_code_space_is_refused(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE, Indexing(), 1, False)
    with pytest.raises(CodeSpaceMismatch, match="drop it first"):
        node.open_collection("c", CodeSpace(128), Indexing(), 1, False)
    node.close()


def test_dropped_collection_is_deleted_from_disk(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE, Indexing(), 1, False)
    assert node.drop_collection("c", 1)
    assert not node.drop_collection("c", 1)
    with pytest.raises(NotFound):
        node.engine("c")
    assert list((tmp_path / "collections").iterdir()) == []
    node.close()


def test_half_created_collections_are_deleted_at_start(tmp_path: Path) -> None:
    open_node(tmp_path).close()
    (tmp_path / "collections" / ".new-c").mkdir()
    (tmp_path / "collections" / ".gone-d").mkdir()
    open_node(tmp_path).close()
    assert list((tmp_path / "collections").iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [Identity("d", 1, 0), Identity("c", 2, 0), Identity("c", 1, 1)],
)
def test_folder_of_another_shard_is_refused(tmp_path: Path, other: Identity) -> None:
    open_node(tmp_path, other).close()
    with pytest.raises(CannotStart, match=f"belongs to cluster '{other.cluster}'"):
        Node(tmp_path, ME)


def test_folder_of_a_running_process_is_refused(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    with pytest.raises(CannotStart, match="open in another process"):
        Node(tmp_path, ME)
    node.close()


def test_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="cannot be used"):
        Node(tmp_path / "file", ME)


@pytest.mark.parametrize("damage", ["overwritten", "cut", "emptied", "removed"])
def test_damaged_collection_is_quarantined_and_the_others_serve(tmp_path: Path, damage: str) -> None:
    node = open_node(tmp_path)
    for name in ("bad", "good"):
        node.open_collection(name, SPACE, Indexing(), 1, False)
        node.engine(name).write([record(f"k{i}") for i in range(500)])
    node.close()
    path = tmp_path / "collections" / "bad@1" / STORE_FILE
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        broken = {
            "overwritten": b"\xff" * 4_096 + content[4_096:],
            "cut": content[: len(content) // 2],
            "emptied": b"",
        }
        path.write_bytes(broken[damage])
    node = open_node(tmp_path)
    assert node.engine("good").rows == 500
    with pytest.raises(Corruption, match="damaged"):
        node.engine("bad")
    assert node.drop_collection("bad", 1)
    assert node.open_collection("bad", SPACE, Indexing(), 2, False) == (True, 2)
    node.close()


def test_failed_write_stores_nothing(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([record("a")])
    with pytest.raises(UnicodeEncodeError):
        engine.write([record("b"), VersionedRecord("\ud800", b"12345678", "{}", 1)])
    assert engine.rows == 1
    assert [found.key for found in engine.fetch(["a", "b"])] == ["a"]
    engine.write([record("b")])
    assert engine.rows == 2
    engine.close()


def test_two_keys_with_one_id_stay_two_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real collisions are too expensive to find, so the hash is made to collide."""
    monkeypatch.setattr("shard.staging.record_id", lambda key: 7)
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([record(key) for key in "dbaec"])
    for k in range(1, 7):
        group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(b"12345678", np.uint8)[None], k)
        assert list(engine.scan(group).hits.keys) == list("abcde")[:k]
    engine.close()


def test_later_incarnation_replaces_the_remains_of_a_failed_drop(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE, Indexing(), 5, False)
    node.engine("c").write([record("old")])
    assert not node.drop_collection("c", 4)
    assert node.open_collection("c", SPACE, Indexing(), 6, False) == (True, 6)
    assert node.engine("c").rows == 0
    with pytest.raises(CodeSpaceMismatch, match="created later"):
        node.open_collection("c", SPACE, Indexing(), 5, False)
    node.close()


def test_stray_files_do_not_stop_a_shard(tmp_path: Path) -> None:
    open_node(tmp_path).close()
    (tmp_path / "collections" / ".DS_Store").touch()
    (tmp_path / "collections" / "notes").mkdir()
    open_node(tmp_path).close()


def test_read_after_a_drop_is_not_found(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE, Indexing(), 1, False)
    engine = node.engine("c")
    engine.write([record("a")])
    node.drop_collection("c", 1)
    node.open_collection("c", SPACE, Indexing(), 2, False)
    with ThreadPoolExecutor(1) as thread, pytest.raises(NotFound, match="dropped in the meantime"):
        thread.submit(engine.fetch, ["a"]).result()
    node.close()


def test_store_is_renumbered_after_billions_of_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    for version in range(1, 40):
        engine.write([record(key, version) for key in "abc"])
    engine.write([VersionedRecord("b", None, "", 99)])
    engine.close()
    monkeypatch.setattr("shard.store.RENUMBER_ABOVE", 20)
    store = Store(tmp_path / "s")
    assert [numbers.tolist() for _, numbers, _ in store.load()] == [[0, 1]]
    engine = Engine(store)
    engine.write([record("d", 100)])
    group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(b"12345678", np.uint8)[None], 9)
    assert sorted(engine.scan(group).hits.keys) == ["a", "c", "d"]
    engine.close()


def test_repeated_writes_use_no_numbers(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    for _ in range(50):
        engine.write([record("a")])
    engine.write([record("b")])
    assert [numbers.tolist() for _, numbers, _ in engine._store.load()] == [[0, 1]]
    engine.close()


@pytest.mark.parametrize("scan_from", [1, 1_000])
def test_versions_are_those_of_the_state_that_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scan_from: int
) -> None:
    monkeypatch.setattr("shard.store_reads._SCAN_FROM", scan_from)
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([record(f"k{i}", i + 1) for i in range(500)])
    numbers = np.random.default_rng(0).permutation(np.arange(0, 500, dtype=np.uint32))
    with engine._store.reading():
        with ThreadPoolExecutor(1) as writer:
            writer.submit(engine.write, [record(f"k{i}", 10_000) for i in range(99)]).result()
        assert engine._store.versions(numbers).tolist() == (numbers + 1).tolist()
    versions = engine.listing(all_slots()).rows.versions
    assert sorted(versions.tolist()) == [*range(100, 501), *[10_000] * 99]
    engine.close()


def test_store_of_a_later_release_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.store_schema.SCHEMA_VERSION", "9")
    Store.create(tmp_path / "s", SPACE, Indexing())
    monkeypatch.undo()
    with pytest.raises(Corruption, match="schema is '9'"):
        Store(tmp_path / "s")


def test_answer_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shard.scanner.MAX_ANSWER_BYTES", 100)
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([VersionedRecord(f"k{i}", b"12345678", '{"text":"' + "x" * 30 + '"}', 1) for i in range(9)])
    group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(b"12345678", np.uint8)[None], 9)
    assert len(engine.scan(group).hits.keys) == 9
    with pytest.raises(InvalidRequest, match="leave the attributes out"):
        engine.scan(dataclasses.replace(group, include_attributes=True))
    engine.close()


def test_the_keys_of_replaced_rows_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_reads, "KEYS_AT_LEAST", 10)
    node = open_node(tmp_path)
    node.open_collection("c", SPACE, Indexing(), 1, False)
    engine = node.engine("c")
    codes = np.frombuffer(b"12345678", np.uint8).reshape(1, -1)
    group = ScanGroup("c", SPACE.fingerprint, codes, 10)
    for version in range(1, 51):
        engine.write([record(f"k{i}", version) for i in range(10)])
        assert len(engine.scan(group).hits) == 10
    # A row that does not exist any more is described only if its key is remembered.
    numbers = list(range(600))
    assert 10 <= len(engine._store.describe(numbers, False, 1 << 20)) <= 20
    node.close()
