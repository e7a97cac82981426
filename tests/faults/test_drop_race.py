"""Collections are dropped and recreated under searches, reads and writes: no process dies, and the only error is
NotFound."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

from lookalike import Client, Record
from lookalike.model.errors import NotFound
from tests.conftest import Cluster, running_cluster

SECONDS = 5.0
MIN_CYCLES = 10
CODE = bytes(8)


def test_dropping_under_load_raises_only_not_found(tmp_path: Path) -> None:
    with running_cluster(tmp_path, partitions=3) as cluster, cluster.client() as client:
        fingerprint = client.create_collection("race", bits=64).code_space.fingerprint

        def write(own: Client) -> None:
            records = [Record(f"k{i}", code=CODE, fingerprint=fingerprint, attributes={"n": 1}) for i in range(50)]
            own.upsert(records, collection="race")

        def search(own: Client) -> None:
            own.search(code=CODE, fingerprint=fingerprint, collection="race")

        def filtered(own: Client) -> None:
            condition = {"n": {"$exists": True}}
            own.search(code=CODE, fingerprint=fingerprint, collection="race", filter=condition)

        def read(own: Client) -> None:
            own.get(["k1", "k2"], collection="race")

        users = [_User(cluster, call) for call in (write, search, filtered, read)]
        try:
            _drop_and_create(client)
        finally:
            for user in users:
                user.stop()
        assert all(user.answers for user in users), [user.answers for user in users]
        assert [user.errors for user in users] == [[], [], [], []]
        assert cluster.reports == []
        logs = "".join(log.read_text() for log in (tmp_path / "logs").glob("*.log"))
        assert "Traceback" not in logs


def _drop_and_create(client: Client) -> None:
    cycles = 0
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline or cycles < MIN_CYCLES:
        client.drop_collection("race")
        client.create_collection("race", bits=64)
        cycles += 1


class _User:
    """Repeats a call in its own thread until stopped."""

    def __init__(self, cluster: Cluster, call: Callable[[Client], None]) -> None:
        self.answers = 0
        self.errors: list[Exception] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(cluster, call))
        self._thread.start()

    def _run(self, cluster: Cluster, call: Callable[[Client], None]) -> None:
        with cluster.client() as client:
            while not self._stopped.is_set():
                try:
                    call(client)
                    self.answers += 1
                except NotFound:
                    continue
                except Exception as error:
                    self.errors.append(error)

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
