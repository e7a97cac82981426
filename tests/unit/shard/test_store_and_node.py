"""The store on disk and the shard's folder: whose they are, and what damage does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.codespace import CodeSpace
from lookalike.errors import CannotStart, CodeSpaceMismatch, Corruption, NotFound
from lookalike.records import VersionedRecord
from lookalike.scan import ScanGroup
from shard.engine import Engine
from shard.node import STORE_FILE, Identity, Node
from shard.store import Store

SPACE = CodeSpace(64)
ME = Identity("c", 1, 0, 4)


def open_node(folder: Path, identity: Identity = ME) -> Node:
    node = Node(folder, identity)
    node.load()
    return node


def record(key: str, version: int = 1) -> VersionedRecord:
    return VersionedRecord(key, b"12345678", "{}", version)


def test_a_node_keeps_its_collections_over_a_restart(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    assert node.open_collection("c", SPACE)
    assert not node.open_collection("c", SPACE)
    node.engine("c").write([record("a"), record("b")])
    node.close()
    node = open_node(tmp_path)
    assert [(c.name, c.rows, c.code_space) for c in node.collections()] == [("c", 2, SPACE)]
    node.close()


def test_a_collection_in_another_space_is_refused(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE)
    with pytest.raises(CodeSpaceMismatch, match="drop it first"):
        node.open_collection("c", CodeSpace(128))
    node.close()


def test_a_dropped_collection_is_gone_from_disk_too(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    node.open_collection("c", SPACE)
    assert node.drop_collection("c")
    assert not node.drop_collection("c")
    with pytest.raises(NotFound):
        node.engine("c")
    assert list((tmp_path / "collections").iterdir()) == []
    node.close()


def test_what_a_crash_left_half_made_is_cleared(tmp_path: Path) -> None:
    open_node(tmp_path).close()
    (tmp_path / "collections" / ".new-c").mkdir()
    (tmp_path / "collections" / ".gone-d").mkdir()
    open_node(tmp_path).close()
    assert list((tmp_path / "collections").iterdir()) == []


@pytest.mark.parametrize(
    "other",
    [Identity("d", 1, 0, 4), Identity("c", 2, 0, 4), Identity("c", 1, 1, 4), Identity("c", 1, 0, 5)],
)
def test_a_folder_of_another_shard_is_refused(tmp_path: Path, other: Identity) -> None:
    open_node(tmp_path, other).close()
    with pytest.raises(CannotStart, match=f"belongs to cluster '{other.cluster}'"):
        Node(tmp_path, ME)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    with pytest.raises(CannotStart, match="open in another process"):
        Node(tmp_path, ME)
    node.close()


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match="cannot be used"):
        Node(tmp_path / "file", ME)


@pytest.mark.parametrize("damage", ["overwritten", "cut"])
def test_a_damaged_collection_is_quarantined_and_the_others_serve(tmp_path: Path, damage: str) -> None:
    node = open_node(tmp_path)
    for name in ("bad", "good"):
        node.open_collection(name, SPACE)
        node.engine(name).write([record(f"k{i}") for i in range(500)])
    node.close()
    path = tmp_path / "collections" / "bad" / STORE_FILE
    content = path.read_bytes()
    path.write_bytes(
        b"\xff" * 4_096 + content[4_096:] if damage == "overwritten" else content[: len(content) // 2]
    )
    node = open_node(tmp_path)
    assert node.engine("good").rows == 500
    with pytest.raises(Corruption, match="damaged"):
        node.engine("bad")
    assert node.drop_collection("bad")
    assert node.open_collection("bad", SPACE)
    node.close()


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", SPACE)
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
    """Real collisions cannot be had cheaply, so the hash is made to collide."""
    monkeypatch.setattr("shard.store.record_id", lambda key: 7)
    Store.create(tmp_path / "s", SPACE)
    engine = Engine(Store(tmp_path / "s"))
    engine.write([record(key) for key in "dbaec"])
    for k in range(1, 7):
        group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(b"12345678", np.uint8)[None], k)
        assert list(engine.scan(group).keys) == list("abcde")[:k]
    engine.close()
