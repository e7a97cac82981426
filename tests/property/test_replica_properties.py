"""Replicas converge, whatever the order and repetition of writes and repairs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.cluster.rows import Rows
from lookalike.cluster.slots import all_slots
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import VersionedRecord
from shard.digests import SlotSums
from shard.engine import Engine
from shard.store import Store

SPACE = CodeSpace(16)
KEYS = ["a", "b", "c"]

# A write: key, version, whether it is a delete. Versions are unique, as clocks give them.
writes = st.lists(
    st.tuples(st.sampled_from(KEYS), st.integers(1, 60), st.booleans()),
    min_size=1,
    max_size=12,
    unique_by=lambda write: write[1],
)


def record(write: tuple[str, int, bool]) -> VersionedRecord:
    key, version, is_delete = write
    return VersionedRecord(key, None if is_delete else version.to_bytes(2, "big"), "{}", version)


def repair(receiver: Engine, giver: Engine) -> None:
    """Does what a replica does after it finds a difference."""
    numbers = giver.listing(all_slots()).numbers
    records, read = giver.read(numbers.tolist())
    assert read == len(numbers)
    receiver.write(records)


def content(engine: Engine) -> dict[str, tuple[int, bytes | None]]:
    return {found.key: (found.version, found.code) for found in engine.fetch(KEYS, include_deleted=True)}


@settings(max_examples=60)
@given(data=st.data(), writes=writes, replicas=st.integers(2, 3))
def test_replicas_converge(data: st.DataObject, writes: list[tuple[str, int, bool]], replicas: int) -> None:
    with TemporaryDirectory() as folder:
        engines = []
        for replica in range(replicas):
            path = Path(folder) / str(replica)
            Store.create(path, SPACE, Indexing())
            engines.append(Engine(Store(path)))
        # Each replica gets some of the writes, in its own order, some twice, with repairs in between.
        steps = [(replica, write) for write in writes for replica in range(replicas)]
        steps += data.draw(st.lists(st.sampled_from(steps), max_size=6))
        for replica, write in data.draw(st.permutations(steps)):
            if data.draw(st.booleans()):
                engines[replica].write([record(write)])
            if data.draw(st.integers(0, 9)) == 0:
                repair(engines[replica], engines[data.draw(st.integers(0, replicas - 1))])
        # At least one replica has each write; then every replica repairs from every other.
        for write in writes:
            engines[data.draw(st.integers(0, replicas - 1))].write([record(write)])
        for receiver in engines:
            for giver in engines:
                repair(receiver, giver)
        newest: dict[str, tuple[int, bytes | None]] = {}
        for write in sorted(writes, key=lambda write: write[1]):
            newest[write[0]] = (write[1], record(write).code)
        for engine in engines:
            assert content(engine) == newest
            assert np.array_equal(engine.sums.digests, engines[0].sums.digests)
            assert np.array_equal(engine.sums.digests, digests_of(engine))
            engine.close()


def digests_of(engine: Engine) -> np.ndarray:
    """Computes the digests from all rows."""
    return SlotSums.empty().changed(Rows.of([]), engine.listing(all_slots()).rows).digests
