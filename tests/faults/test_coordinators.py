"""Clients of several coordinators see no error when one coordinator is killed or stopped under load."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from lookalike import AsyncClient, Client, Record
from lookalike.model.errors import LookalikeError, PartitionUnavailable
from tests.conftest import Cluster, coordinator_process, running_cluster, wait_until

CODE = bytes(range(8))
Started = list[tuple[str, subprocess.Popen[bytes]]]


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("coordinators"), partitions=2) as cluster:
        with cluster.client() as client:
            client.create_collection("c", bits=64)
            client.upsert([Record("k", code=CODE)], collection="c")
        yield cluster


@pytest.fixture(scope="module")
def survivors(own_cluster: Cluster) -> Iterator[Callable[[], Started]]:
    """Yields a function that returns two running coordinators, and starts new ones for those that have ended."""
    with contextlib.ExitStack() as stack:
        started: Started = []

        def fill_up() -> Started:
            started[:] = [one for one in started if one[1].poll() is None]
            while len(started) < 2:
                started.insert(0, stack.enter_context(coordinator_process(own_cluster)))
            return list(started)

        yield fill_up


@pytest.fixture
def two(survivors: Callable[[], Started]) -> Started:
    return survivors()


def addresses(two: Started) -> list[str]:
    return [address for address, _ in two]


def seconds_used(two: Started) -> list[float]:
    """Processor time of each."""
    return [sum(psutil.Process(process.pid).cpu_times()[:2]) for _, process in two]


class Load:
    """Threads that repeat a call of one client. counts: successes per thread; errors: all that was raised."""

    def __init__(self, call: Callable[[int], object], threads: int = 4) -> None:
        self.counts: collections.Counter[int] = collections.Counter()
        self.errors: list[LookalikeError] = []
        self._stop = threading.Event()
        self._call = call
        self._threads = [threading.Thread(target=self._run, args=(i,)) for i in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_more(self, calls: int) -> None:
        """Wait until each thread has done this many more calls."""
        goal = {i: self.counts[i] + calls for i in range(len(self._threads))}
        wait_until(lambda: all(self.counts[i] >= count for i, count in goal.items()), 60)

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                self._call(number)
                self.counts[number] += 1
            except LookalikeError as error:
                self.errors.append(error)


def mixed(client: Client) -> Callable[[int], object]:
    """A search, a read, a write or a delete."""
    numbers = itertools.count()

    def call(thread: int) -> object:
        number = next(numbers)
        return (
            lambda: client.search(code=CODE, k=1, collection="c").hits[0],
            lambda: client.get(["k"], collection="c")[0],
            lambda: client.upsert([Record(f"k{thread}", code=CODE)], collection="c"),
            lambda: client.delete([f"gone{thread}"], collection="c"),
        )[number % 4]()

    return call


@pytest.mark.parametrize(
    ("form", "number"),
    [
        ("list", signal.SIGKILL),
        ("text", signal.SIGTERM),
        ("one name", signal.SIGKILL),
        ("one name", signal.SIGTERM),
    ],
)
def test_losing_a_coordinator_under_load_raises_no_error(two: Started, form: str, number: signal.Signals) -> None:
    both = addresses(two)
    # gRPC's own form for one name with two addresses.
    given: dict[str, str | list[str]] = {
        "list": both,
        "text": ",".join(both),
        "one name": [f"ipv4:{','.join(both)}"],
    }
    with Client(given[form]) as client, Load(mixed(client)) as load:
        load.wait_for_more(20)
        two[0][1].send_signal(number)
        two[0][1].wait(30)
        load.wait_for_more(60)
    assert load.errors == []


def test_the_load_is_spread_evenly(two: Started) -> None:
    with Client(addresses(two)) as client, Load(mixed(client)) as load:
        load.wait_for_more(20)
        before = seconds_used(two)
        load.wait_for_more(150)
        spent = [after - start for after, start in zip(seconds_used(two), before, strict=True)]
    assert load.errors == []
    assert 0.6 < spent[0] / spent[1] < 1.7, spent


def test_an_unresponsive_coordinator_is_skipped_and_used_again_later(two: Started) -> None:
    process = psutil.Process(two[0][1].pid)
    process.suspend()
    with Client(addresses(two), timeout=0.5) as client:
        failed = 0
        for _ in range(40):
            try:
                client.get(["k"], collection="c")
            except LookalikeError:
                failed += 1
    process.resume()
    # One call a second finds out that it still does not answer.
    assert failed <= 2
    with Client(addresses(two)[0]) as client:
        assert client.get(["k"], collection="c")


async def test_asynchronous_clients_do_the_same(two: Started) -> None:
    async with AsyncClient(addresses(two)) as client:
        searches = [client.search(code=CODE, k=1, collection="c") for _ in range(200)]
        running = asyncio.gather(*searches)
        await asyncio.sleep(0)
        two[0][1].kill()
        assert all(result.hits[0].distance == 0 for result in await running)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ingest_continues_at_another_coordinator(
    own_cluster: Cluster, two: Started, number: signal.Signals
) -> None:
    total = 6_000
    with Client(addresses(two)) as client:
        client.create_collection(name := f"ingest-{number.name}", bits=64)
        records = (Record(f"r{i}", code=i.to_bytes(8, "big")) for i in range(total))
        outcomes = []
        before = seconds_used(two)
        for outcome in client.ingest(records, collection=name):
            outcomes.append(outcome)
            if len(outcomes) == total // 3:
                spent = [after - start for after, start in zip(seconds_used(two), before, strict=True)]
                streaming = two[spent.index(max(spent))][1]
                streaming.send_signal(number)
                streaming.wait(30)
        assert [outcome.key for outcome in outcomes] == [f"r{i}" for i in range(total)]
        assert all(outcome.ok for outcome in outcomes)
        assert client.get_collection(name).rows == total


def test_a_call_without_retry_avoids_a_dead_coordinator(two: Started) -> None:
    two[0][1].kill()
    two[0][1].wait(30)
    for i in range(4):  # half of the clients begin at the dead one
        with Client(addresses(two)) as client:
            client.create_collection(f"once-{i}", bits=64)
            client.drop_collection(f"once-{i}")


def test_the_error_comes_within_the_timeout_when_none_answers(two: Started) -> None:
    for _, process in two:
        process.kill()
        process.wait(30)
    started = time.monotonic()
    with (
        Client(addresses(two), timeout=1.0) as client,
        pytest.raises(PartitionUnavailable, match="nothing listens there"),
    ):
        client.get(["k"], collection="c")
    assert time.monotonic() - started < 10


def test_a_call_without_retry_waits_for_the_only_coordinator_to_restart(own_cluster: Cluster) -> None:
    """It could not connect, so the coordinator cannot have seen the call."""
    pid = own_cluster.kill("coordinator")
    wait_until(lambda: not psutil.pid_exists(pid), 10)
    with own_cluster.client() as client:
        assert client.create_collection("created-after-the-restart", bits=64).name == "created-after-the-restart"
    own_cluster.wait_restarted("coordinator", pid)
