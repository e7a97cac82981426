"""A collection under any sequence of writes, deletions, searches and restarts, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lookalike.cluster.scan import ScanGroup
from lookalike.model import filters
from lookalike.model.codespace import CodeSpace
from lookalike.model.indexing import MIH, Indexing
from lookalike.model.records import VersionedRecord, attributes_text
from shard.engine import Engine
from shard.store import Store
from tests.oracle import meets, nearest_keys

SPACE = CodeSpace(64)
CODE_BYTES = 8
INDEXING = Indexing(MIH, ("label",))
keys = st.sampled_from(["a", "b", "c", "d", "é", "\x00", "x" * 512, "🙂"])
codes = st.binary(min_size=CODE_BYTES, max_size=CODE_BYTES) | st.just(bytes(CODE_BYTES))
attributes = st.fixed_dictionaries(
    {}, optional={"label": st.sampled_from(["cat", "dog"]), "n": st.integers(0, 3) | st.booleans()}
)
conditions = st.sampled_from(
    [
        filters.Equals("label", "cat"),
        filters.Not(filters.Equals("label", "cat")),
        filters.And((filters.Exists("n"), filters.Range("n", gte=1, lt=3))),
        filters.Or((filters.In("n", (0, 3)), filters.Equals("label", "dog"))),
        filters.Equals("n", 1),
        filters.Equals("n", True),
        filters.In("n", (False, 2)),
        filters.In("n", (0, 2)),
    ]
)


class EngineMachine(RuleBasedStateMachine):
    @initialize()
    def create(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "records.sqlite"
        Store.create(self.path, SPACE, INDEXING)
        self.engine = Engine(Store(self.path))
        self.model: dict[str, tuple[bytes, dict[str, Any]]] = {}
        self.versions: dict[str, int] = {}
        self.clock = 0

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.engine.close()
            shutil.rmtree(self.folder)

    def _write(self, records: list[VersionedRecord]) -> None:
        result = self.engine.write(records)
        for index, record in enumerate(records):
            assert result.existed[index] == (record.key in self.model)
            stored = self.versions.get(record.key, -1)
            assert (index in result.superseded) == (stored > record.version)
            if record.version <= stored:
                continue
            self.versions[record.key] = record.version
            self.model.pop(record.key, None)
            if record.code is not None:
                self.model[record.key] = (record.code, self.pending[record.key, record.version])

    @rule(batch=st.lists(st.tuples(keys, codes, attributes, st.integers(-3, 3)), min_size=1, max_size=6))
    def upsert(self, batch: list[tuple[str, bytes, dict[str, Any], int]]) -> None:
        records = []
        self.pending: dict[tuple[str, int], dict[str, Any]] = {}
        for key, code, values, drift in batch:
            self.clock += 1
            version = max(0, self.clock + drift)
            if (key, version) in self.pending:
                continue
            self.pending[key, version] = values
            records.append(VersionedRecord(key, code, attributes_text(values), version))
        self._write(records)

    @rule(doomed=st.lists(keys, min_size=1, max_size=3, unique=True))
    def delete(self, doomed: list[str]) -> None:
        self.clock += 4
        self._write([VersionedRecord(key, None, "", self.clock) for key in doomed])

    @rule()
    def restart(self) -> None:
        self.engine.close()
        self.engine = Engine(Store(self.path))

    @rule(query=codes, k=st.integers(1, 9), max_distance=st.none() | st.integers(0, 64))
    def search(self, query: bytes, k: int, max_distance: int | None) -> None:
        hits = self._scan(query, k, max_distance=max_distance)
        expected = nearest_keys({key: code for key, (code, _) in self.model.items()}, query, len(self.model))
        within = [hit for hit in expected if max_distance is None or hit[0] <= max_distance]
        assert hits == within[:k]

    @rule(query=codes, condition=conditions)
    def search_filtered(self, query: bytes, condition: filters.Filter) -> None:
        kept = {key: code for key, (code, values) in self.model.items() if meets(values, condition)}
        assert self._scan(query, 8, filter=condition) == nearest_keys(kept, query, 8)

    def _scan(self, query: bytes, k: int, **options: Any) -> list[tuple[int, str]]:
        group = ScanGroup("c", SPACE.fingerprint, np.frombuffer(query, np.uint8)[None], k, **options)
        hits = self.engine.scan(group).hits
        assert hits.counts.tolist() == [len(hits.keys)]
        return list(zip(hits.distances.tolist(), hits.keys.tolist(), strict=True))

    @invariant()
    def fetches_what_is_stored(self) -> None:
        if not hasattr(self, "engine"):
            return
        assert self.engine.rows == len(self.model)
        found = {record.key: record.code for record in self.engine.fetch([*self.model, "never"])}
        assert found == {key: code for key, (code, _) in self.model.items()}


EngineMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
test_engine_machine = EngineMachine.TestCase
