"""A key that has a record is found at every moment, however often it is overwritten."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.engine import Engine
from shard.store import Store

SECONDS = 4.0
KEYS = [f"k{number}" for number in range(8)]


@pytest.fixture
def eager_switches() -> Iterator[None]:
    """Lets threads take turns after every few instructions."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("eager_switches")
def test_an_overwritten_key_is_never_absent(tmp_path: Path) -> None:
    Store.create(tmp_path / "s", CodeSpace(64), Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([VersionedRecord(key, bytes(8), "{}", 1) for key in KEYS])
    absent: list[str] = []
    reads = 0
    until = time.monotonic() + SECONDS

    def read() -> None:
        nonlocal reads
        while time.monotonic() < until:
            found = {record.key for record in engine.fetch(KEYS)}
            absent.extend(set(KEYS) - found)
            reads += 1

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    version = 1
    while time.monotonic() < until:
        version += 1
        engine.write([VersionedRecord(key, version.to_bytes(8, "big"), "{}", version) for key in KEYS])
    for reader in readers:
        reader.join()
    engine.close()
    assert reads > 1
    assert version > 2
    assert absent == []
