"""Shards are killed while records stream in: every acknowledged record survives."""

from __future__ import annotations

import threading
from pathlib import Path

from lookalike import Record
from lookalike.model.errors import LookalikeError
from tests.conftest import running_cluster

ROUNDS = 3


def test_every_acknowledged_record_survives_kill(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=2) as cluster:
        acknowledged: set[str] = set()
        refused: list[LookalikeError] = []
        stop = threading.Event()

        def write(prefix: str) -> None:
            number = 0
            with cluster.client() as client:
                while not stop.is_set():
                    batch = [_record(f"{prefix}-{number + i}") for i in range(40)]
                    number += 40
                    try:
                        for outcome in client.ingest(batch, collection="c"):
                            if outcome.ok:
                                acknowledged.add(outcome.key)
                    except LookalikeError as error:
                        refused.append(error)

        with cluster.client() as client:
            client.create_collection("c", bits=64)
        writers = [threading.Thread(target=write, args=(f"w{i}",)) for i in range(3)]
        for writer in writers:
            writer.start()
        killed = []
        for round_ in range(ROUNDS):
            name = f"shard-r0-{round_ % 2}"
            before = len(acknowledged)
            old = cluster.kill(name)
            cluster.wait_restarted(name, old)
            killed.append((old, cluster.pid(name)))
            _wait_for_more(acknowledged, before)
        stop.set()
        for writer in writers:
            writer.join()
        assert all(old != new for old, new in killed)
        assert len(cluster.reports) >= ROUNDS
        keys = sorted(acknowledged)
        assert len(keys) > 1_000
        with cluster.client() as client:
            for start in range(0, len(keys), 5_000):
                part = keys[start : start + 5_000]
                found = {record.key: record.code for record in client.get(part, collection="c")}
                assert found == {key: _record(key).code for key in part}
            for key in keys[:: len(keys) // 50]:
                hits = client.search(code=_record(key).code, k=10_000, max_distance=0, collection="c").hits
                assert key in {hit.key for hit in hits}


def _wait_for_more(acknowledged: set[str], before: int) -> None:
    from tests.conftest import wait_until

    wait_until(lambda: len(acknowledged) > before + 400, 30)


def _record(key: str) -> Record:
    return Record(key, code=key.encode().ljust(8, b".")[-8:], attributes={"key": key})
