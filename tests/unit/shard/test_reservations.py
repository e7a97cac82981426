"""Reserved keys: which writes a shard refuses, and when a reservation ends."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.cluster.scan import RESERVED_SECONDS
from lookalike.cluster.slots import SlotTable, all_slots
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VERSIONS_PER_MS, VersionedRecord
from shard.membership import Identity
from shard.node import Node
from shard.reservations import Reservations
from shard.work import Write, write_together

SPACE = CodeSpace(64)


def record(key: str, version: int) -> VersionedRecord:
    return VersionedRecord(key, bytes(8), "{}", version)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of the reservations' clock, in seconds."""
    time = [100.0]
    monkeypatch.setattr("shard.engine.Reservations", functools.partial(Reservations, clock=lambda: time[0]))
    return time


@pytest.fixture
def node(tmp_path: Path, now: list[float]) -> Iterator[Node]:
    opened = Node(tmp_path, Identity("test", 0, 0))
    opened.load()
    opened.change_table(lambda _: SlotTable.founded(0, all_slots()))
    opened.open_collection("c", SPACE, Indexing(), 1, False)
    yield opened
    opened.close()


def write(
    node: Node,
    *records: VersionedRecord,
    bases: list[int] | None = None,
    is_repair: bool = False,
    is_reserved: bool = False,
) -> dict[int, int]:
    """Returns by index of each superseded record the version that it lost to."""
    (result,) = write_together(node, [Write(node.engine("c"), records, is_repair, bases, is_reserved)])
    assert not isinstance(result, Exception), result
    return dict(result.superseded)


def stored(node: Node) -> dict[str, int]:
    return {found.key: found.version for found in node.engine("c").fetch(["a", "b"])}


def test_a_reservation_stores_nothing_and_supersedes_lower_versions(node: Node) -> None:
    write(node, record("a", 10), record("b", 10))
    assert write(node, record("a", 50), bases=[10]) == {}
    assert stored(node) == {"a": 10, "b": 10}
    assert write(node, record("a", 40), record("b", 40)) == {0: 50}
    assert stored(node) == {"a": 10, "b": 40}
    assert write(node, record("a", 50)) == {}
    assert not node.engine("c").reservations
    assert stored(node) == {"a": 50, "b": 40}


def test_a_key_with_a_version_above_the_base_is_not_reserved(node: Node) -> None:
    write(node, record("a", 20), VersionedRecord("b", None, "", 30))
    assert write(node, record("a", 50), record("b", 50), bases=[10, 29]) == {0: 20, 1: 30}
    assert not node.engine("c").reservations
    assert write(node, record("a", 50), record("b", 50), bases=[20, 30]) == {}


def test_a_released_reservation_is_gone(node: Node) -> None:
    assert write(node, record("a", 50), bases=[0]) == {}
    for version, superseded in ((49, {0: 50}), (50, {})):
        release = Write(node.engine("c"), [record("a", version)], bases=[0], is_release=True)
        write_together(node, [release])
        assert write(node, record("a", 60), bases=[0]) == superseded


def test_the_higher_of_two_reservations_holds(node: Node, now: list[float]) -> None:
    assert write(node, record("a", 50), bases=[0]) == {}
    now[0] += 3
    assert write(node, record("a", 60), bases=[0]) == {}
    assert write(node, record("a", 55), bases=[0]) == {0: 60}
    assert write(node, record("a", 50)) == {0: 60}
    assert write(node, record("a", 70)) == {}
    assert stored(node) == {"a": 70}


def test_repair_stores_what_other_replicas_have_in_spite_of_a_reservation(node: Node) -> None:
    assert write(node, record("a", 50), bases=[0]) == {}
    assert write(node, record("a", 40), is_repair=True) == {}
    assert stored(node) == {"a": 40}
    assert write(node, record("a", 45)) == {0: 50}


def test_a_reservation_that_nobody_uses_expires() -> None:
    now = [0.0]
    reservations = Reservations(clock=lambda: now[0])
    reservations.add("a", 5)
    now[0] = RESERVED_SECONDS / 2
    reservations.add("b", 6)
    now[0] = RESERVED_SECONDS
    assert reservations
    assert (reservations.version("a"), reservations.version("b")) == (0, 6)
    now[0] = 2 * RESERVED_SECONDS
    assert not reservations


def test_a_record_is_stored_only_while_its_key_is_reserved_for_its_version(node: Node, now: list[float]) -> None:
    write(node, record("a", 10))
    assert write(node, record("a", 50), record("b", 50), is_reserved=True) == {0: 50, 1: 50}
    assert stored(node) == {"a": 10}
    assert write(node, record("a", 50), bases=[10]) == {}
    assert write(node, record("a", 49), is_reserved=True) == {0: 50}
    # Another change that is based on the same version takes the key over, but not at once.
    assert write(node, record("a", 60), bases=[10]) == {0: 50}
    now[0] += 3
    assert write(node, record("a", 60), bases=[10]) == {}
    assert write(node, record("a", 50), is_reserved=True) == {0: 60}
    assert write(node, record("a", 60), is_reserved=True) == {}
    # The message arrives again.
    assert write(node, record("a", 60), is_reserved=True) == {}
    assert stored(node) == {"a": 60}
    assert write(node, record("a", 70), bases=[10]) == {0: 60}


def test_a_restart_breaks_no_reservation(tmp_path: Path, now: list[float]) -> None:
    """A change is reserved on two replicas and stored on one. If the other forgot it, it would accept a lower
    version, which the change would undo later."""

    def opened() -> Node:
        node = Node(tmp_path, Identity("test", 0, 0))
        node.load()
        return node

    version = 10_000 * VERSIONS_PER_MS
    node = opened()
    node.change_table(lambda _: SlotTable.founded(0, all_slots()))
    node.open_collection("c", SPACE, Indexing(), 1, False)
    write(node, record("a", 10))
    assert write(node, record("a", version), bases=[10]) == {}
    node.close()

    node = opened()
    (floor,) = write(node, record("a", version - 1)).values()
    assert floor > version
    assert floor % 4096 == 0, "a coordinator would take it for one of its own versions"
    # The change itself is not stored either, because its reservation is gone: its coordinator begins again.
    assert write(node, record("a", version), is_reserved=True) == {0: floor}
    assert write(node, record("b", version), bases=[0]) == {0: floor}
    assert stored(node) == {"a": 10}
    assert write(node, record("a", version), is_repair=True) == {}
    assert write(node, record("a", floor + 1), bases=[version]) == {}
    assert write(node, record("a", floor + 1), is_reserved=True) == {}
    now[0] += RESERVED_SECONDS
    assert write(node, record("b", version)) == {}
    assert stored(node) == {"a": floor + 1, "b": version}
    node.close()
