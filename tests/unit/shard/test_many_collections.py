"""Many small collections: open files are bounded, memory is given back, and every collection answers."""

from __future__ import annotations

import contextlib
import mmap
import os
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.scan import ScanGroup
from lookalike.model.codespace import CodeSpace
from lookalike.model.errors import Overloaded
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.kernel import CodeMatrix
from shard.node import Node
from shard.process_memory import held_bytes
from tests.unit.shard.test_store_and_node import open_node

SPACE = CodeSpace(256)
COLLECTIONS = 30
ROWS = 100
LIMIT = 8


def code(row: int) -> bytes:
    return row.to_bytes(2, "big") * 16


def fill(node: Node, number: int) -> None:
    node.open_collection(f"c{number}", SPACE, Indexing(), 1, False)
    records = [VersionedRecord(f"k{row}", code(row), '{"a":1}', 1) for row in range(ROWS)]
    node.engine(f"c{number}").write(records)


def check(node: Node, number: int) -> None:
    engine = node.engine(f"c{number}")
    assert [record.key for record in engine.fetch(["k7", "missing"])] == ["k7"]
    group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(code(7), np.uint8)[None], 1, None, None, True)
    assert engine.scan(group).hits.keys.tolist() == ["k7"]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_open_files_are_bounded_and_every_collection_answers(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    before = open_files()
    node._open_stores._limit = LIMIT
    for number in range(COLLECTIONS):
        fill(node, number)
    assert open_files() - before <= LIMIT * 7
    users = [threading.Thread(target=check, args=(node, number)) for number in range(COLLECTIONS)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    for number in range(COLLECTIONS):
        check(node, number)
    assert open_files() - before <= LIMIT * 7
    node.close()
    assert open_files() < before
    node = open_node(tmp_path)
    for number in range(COLLECTIONS):
        check(node, number)
    node.close()


def test_small_matrix_takes_little_memory_and_grows() -> None:
    matrix = CodeMatrix(256)
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (20_000, 32), np.uint8)
    ids = rng.permutation(len(codes)).astype(np.uint64)
    matrix.append(codes[:100], ids[:100])
    (chunk,) = matrix.view().chunks
    assert chunk.codes.nbytes + chunk.ids.nbytes + chunk.numbers.nbytes + chunk.died.nbytes < 64 * 1024
    old = matrix.view()
    matrix.delete(np.array([3], np.uint32))
    for start in range(100, len(codes), 700):
        matrix.append(codes[start : start + 700], ids[start : start + 700])
    assert len(matrix) == len(codes) - 1
    for row in range(0, len(codes), 501):
        if row != 3:
            assert matrix.search(codes[row : row + 1], 1)[1][0, 0] == ids[row]
    # The old state still has the deleted row, and none of the later ones.
    matches = matrix.scan(codes[3:4], 100, view=old)
    assert sorted(matches.ids[0].tolist()) == sorted(ids[:100].tolist())


@contextlib.contextmanager
def no_more_files() -> Iterator[None]:
    """Lets this process open no further file."""
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_full_table_of_files_is_an_error_that_names_the_remedy(tmp_path: Path) -> None:
    node = open_node(tmp_path)
    fill(node, 0)
    engine = node.engine("c0")
    assert engine.release()
    with no_more_files(), pytest.raises(Overloaded, match=r"too many open files; raise .* \(ulimit -n\)"):
        engine.fetch(["k7"])
    check(node, 0)
    node.close()


def test_held_memory_follows_what_is_used() -> None:
    before = held_bytes()
    with mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        for start in range(0, len(block), mmap.PAGESIZE):
            block[start] = 1
        assert held_bytes() - before > 40_000_000
    assert held_bytes() - before < 30_000_000
