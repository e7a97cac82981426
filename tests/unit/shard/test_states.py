"""Reads of an earlier state do not depend on what a read of a later state left in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from lookalike.cluster.select import CountOf, Kind, MembersOf, Near, Question
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import Indexing
from lookalike.model.records import SLOTS, VersionedRecord
from shard.engine import Engine
from shard.kernel import count_selected
from shard.selections import State
from shard.store import Store

SPACE = CodeSpace(64)
KEYS = [f"k{number}" for number in range(8)]
MATCHING = filters.Equals("n", 1)
SLOTS_ALL = np.ones(SLOTS, np.bool_)
MEMBERS = MembersOf(Near("n", SPACE.fingerprint, bytes(8)), (("number", 1),), 20)


def count(engine: Engine, state: State) -> int:
    selection = engine._selections.compute(state, MATCHING, SLOTS_ALL, lambda: False)
    return count_selected(state.view, selection)


def group(engine: Engine, state: State) -> int:
    hits = engine._groups.answer(MEMBERS, state.view, None, lambda: False).hits
    return 0 if hits is None else len(hits)


@pytest.mark.parametrize(("read", "kind", "condition"), [(count, CountOf(), MATCHING), (group, MEMBERS, None)])
def test_rows_that_a_later_state_lacks_are_found_in_the_earlier_one(
    tmp_path: Path, read: Callable[[Engine, State], int], kind: Kind, condition: filters.Filter | None
) -> None:
    Store.create(tmp_path / "s", SPACE, Indexing())
    engine = Engine(Store(tmp_path / "s"))
    engine.write([VersionedRecord(key, bytes(8), '{"n":1}', 1) for key in KEYS])
    with engine._pinned() as earlier, ThreadPoolExecutor(1) as other:
        overwritten = [VersionedRecord(key, bytes(8), '{"n":1}', 2) for key in KEYS]
        other.submit(engine.write, overwritten).result()
        other.submit(engine.select, Question("c", condition, kind), SLOTS_ALL).result()
        assert read(engine, earlier) == len(KEYS)
    with engine._pinned() as later:
        assert read(engine, later) == len(KEYS)
    engine.close()
