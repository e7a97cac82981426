"""Aliases and renames on a real cluster with two coordinators, through the SDK, REST and the command line."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike import AsyncClient, Client, Record
from lookalike.model.errors import AlreadyExists, InvalidRequest, LookalikeError, NotFound
from tests.command import lookalike
from tests.conftest import Cluster, running_cluster, second_coordinator
from tests.web.rest import Rest

ROWS = 20


def code(value: int) -> bytes:
    return value.to_bytes(8, "big")


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("names"), partitions=2, replicas=2) as running:
        yield running


@pytest.fixture(scope="module")
def other(named: Cluster) -> Iterator[Client]:
    """A client of a second coordinator."""
    with second_coordinator(named) as address, Client(address) as client:
        yield client


@pytest.fixture
def owner(named: Cluster) -> Iterator[Client]:
    """A client of the first coordinator. Drops everything that the test created."""
    with named.client() as client:
        yield client
        for alias in client.list_aliases():
            client.delete_alias(alias)
        for collection in client.list_collections():
            client.drop_collection(collection.name)


def fill(client: Client, name: str) -> None:
    client.create_collection(name, bits=64)
    client.upsert(
        [Record(f"k{i}", code=code(i), attributes={"in": name, "n": i}) for i in range(ROWS)], collection=name
    )


class Watcher:
    """Asks again and again, in its own thread, which collection a name refers to."""

    def __init__(self, ask: Callable[[], str]) -> None:
        # When each question was asked, and the answer.
        self.answers: list[tuple[float, str]] = []
        self._ask = ask
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            asked = time.monotonic()
            try:
                answer = self._ask()
            except LookalikeError as error:
                answer = type(error).__name__
            self.answers.append((asked, answer))

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def since(self, moment: float) -> set[str]:
        return {answer for asked, answer in self.answers if asked > moment}

    def until(self, moment: float) -> set[str]:
        return {answer for asked, answer in self.answers if asked < moment}


def searched(client: Client, name: str) -> str:
    """The collections that all hits of a search come from."""
    hits = client.search(code=code(1), k=ROWS, collection=name, include_attributes=True).hits
    assert len(hits) == ROWS
    return "+".join(sorted({hit.attributes["in"] for hit in hits}))


def read(client: Client, name: str) -> str:
    (record,) = client.get(["k1"], collection=name)
    return str(record.attributes["in"])


def watched(named: Cluster, other: Client, name: str) -> list[Watcher]:
    """Watches a name through both coordinators. The clients are used by one thread each."""
    clients = [named.client(), named.client()]
    asks = [
        lambda: searched(clients[0], name), lambda: read(clients[1], name), lambda: searched(other, name)
    ]  # fmt: skip
    return [Watcher(ask) for ask in asks]


def test_every_request_takes_an_alias(owner: Client, tmp_path: Path, named: Cluster) -> None:
    fill(owner, "blue")
    owner.create_alias("live", "blue")
    at = {"collection": "live"}
    assert searched(owner, "live") == "blue"
    (result,) = owner.search_batch(codes=[code(3)], k=1, **at)
    assert result.hits[0].key == "k3"
    assert owner.search(key="k3", k=1, **at).hits[0].key != "k3"
    assert owner.exists(["k1", "no"], **at) == [True, False]
    assert owner.count(filter={"n": {"$lt": 5}}, **at).count == 5
    assert len(list(owner.scroll(page_size=7, **at))) == ROWS
    assert owner.facets("in", **at).facets[0].value == "blue"
    assert owner.set_attributes({"new": 1}, keys=["k2"], **at) == 1
    assert owner.upsert([Record("u", code=code(77))], **at) == 1
    assert [outcome.ok for outcome in owner.ingest([Record("i", code=code(78))], **at)] == [True]
    columns = np.frombuffer(code(79) + code(80), np.uint8).reshape(2, 8)
    assert owner.ingest_arrays(["c1", "c2"], columns, **at).stored == 2
    assert owner.delete(["u"], **at) == 1
    assert owner.delete_by_filter({"n": 7}, **at) == 1
    found = owner.get_collection("live")
    assert (found.name, found.aliases, found.rows) == ("blue", ("live",), ROWS + 2)
    for command in (
        ["export", tmp_path / "out.parquet"],
        ["backup", tmp_path / "backups"],
        ["ingest", tmp_path / "out.parquet", "--dead-letters", tmp_path / "dead.jsonl"],
    ):
        status, _, said = lookalike(*command, "-c", "live", "--server", named.address)
        assert status == 0, said
    assert owner.get_collection("blue").rows == ROWS + 2
    assert [found.name for found in owner.list_collections()] == ["blue"]


def test_a_switch_is_atomic_over_all_coordinators(named: Cluster, owner: Client, other: Client) -> None:
    fill(owner, "blue")
    fill(owner, "green")
    owner.create_alias("live", "blue")
    watchers = watched(named, other, "live")
    try:
        for switching, target in ((owner, "green"), (other, "blue")):
            before = owner.get_collection("live").name
            time.sleep(0.5)
            began = time.monotonic()
            switching.switch_alias("live", target)
            done = time.monotonic()
            assert {searched(owner, "live"), searched(other, "live")} == {target}
            time.sleep(0.5)
            for watcher in watchers:
                assert watcher.since(done) == {target}
                # No request fails, and none sees both.
                assert {answer for asked, answer in watcher.answers if began < asked < done} <= {before, target}
                watcher.answers.clear()
    finally:
        for watcher in watchers:
            watcher.stop()


def test_a_rename_is_atomic_and_frees_the_name(named: Cluster, owner: Client, other: Client) -> None:
    fill(owner, "draft")
    owner.create_alias("live", "draft")
    assert searched(other, "draft") == "draft"
    watchers = watched(named, other, "draft")
    try:
        assert owner.rename_collection("draft", "final").name == "final"
        done = time.monotonic()
        assert {searched(client, name) for client in (owner, other) for name in ("final", "live")} == {"draft"}
        time.sleep(0.3)
    finally:
        for watcher in watchers:
            watcher.stop()
    assert [watcher.since(done) for watcher in watchers] == [{"NotFound"}] * 3
    assert [found.name for found in other.list_collections()] == ["final"]
    assert [found.name for found in other.status().collections] == ["final"]
    # The old name is free: for a collection, which is another one everywhere.
    other.create_collection("draft", bits=64)
    other.upsert([Record("k1", code=code(1), attributes={"in": "second"})], collection="draft")
    assert (read(owner, "draft"), read(owner, "final")) == ("second", "draft")
    assert {found.name: found.rows for found in owner.list_collections()} == {"draft": 1, "final": ROWS}
    owner.drop_collection("draft")
    with pytest.raises(NotFound, match="'draft'"):
        read(other, "draft")
    # A name that was given back.
    assert owner.rename_collection("final", "draft").aliases == ("live",)
    assert (searched(other, "draft"), searched(other, "live")) == ("draft", "draft")


def test_names_of_aliases_and_collections_do_not_clash(owner: Client, other: Client) -> None:
    fill(owner, "one")
    fill(owner, "two")
    owner.create_alias("live", "one")
    with pytest.raises(AlreadyExists, match="'live' is an alias"):
        other.create_collection("live", bits=64)
    for clash in (
        lambda: other.create_alias("live", "two"), lambda: other.create_alias("two", "one"),
        lambda: other.rename_collection("one", "two"), lambda: other.rename_collection("one", "live"),
    ):  # fmt: skip
        with pytest.raises(AlreadyExists):
            clash()
    for missing in (
        lambda: other.create_alias("x", "nobody"), lambda: other.switch_alias("x", "one"),
        lambda: other.switch_alias("live", "nobody"), lambda: other.delete_alias("two"),
        lambda: other.rename_collection("nobody", "x"),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            missing()
    with pytest.raises(InvalidRequest, match="'live' is an alias of 'one'"):
        other.rename_collection("live", "x")
    with pytest.raises(InvalidRequest, match="'live' is an alias of 'one'; drop the collection"):
        other.drop_collection("live")
    with pytest.raises(InvalidRequest, match="'one' has the alias 'live'"):
        other.drop_collection("one")
    assert searched(other, "live") == "one"
    other.delete_alias("live")
    other.drop_collection("one")
    with pytest.raises(NotFound):
        searched(owner, "live")


def test_errors_name_the_collection_as_the_client_does(owner: Client, other: Client) -> None:
    fill(owner, "before")
    other.rename_collection("before", "after")
    with pytest.raises(LookalikeError) as caught:
        owner.search(key="nobody", k=1, collection="after")
    assert "before" not in str(caught.value)
    # This client remembers the code space of the name, so it does not ask for it.
    report = list(owner.ingest([Record("a", code=code(1))], collection="before"))
    assert isinstance(report[0].error, NotFound)
    columns = np.zeros((1, 8), np.uint8)
    failed = owner.ingest_arrays(["a"], columns, collection="before", fingerprint="00")
    assert isinstance(failed.errors[0], NotFound)


def test_the_asynchronous_client_has_the_same_calls(named: Cluster, owner: Client) -> None:
    fill(owner, "sync")

    async def calls() -> None:
        async with AsyncClient(named.address) as client:
            await client.create_alias("live", "sync")
            assert await client.list_aliases() == {"live": "sync"}
            assert (await client.rename_collection("sync", "async")).name == "async"
            assert await client.list_aliases() == {"live": "async"}
            await client.delete_alias("live")

    asyncio.run(calls())
    assert owner.list_aliases() == {}


def test_rest_and_the_command_line_change_names(named: Cluster, owner: Client) -> None:
    fill(owner, "blue")
    fill(owner, "green")
    rest = Rest(named.config.coordinator.web)
    made = rest("POST", "/v1/aliases", {"alias": "live", "collection": "blue"})
    assert (made.status, made.json) == (201, {"alias": {"alias": "live", "collection": "blue"}})
    assert rest("POST", "/v1/aliases", {"alias": "live", "collection": "blue"}).error["code"] == "AlreadyExists"
    assert rest("PUT", "/v1/aliases/live", {"collection": "green"}).status == 200
    assert rest("GET", "/v1/aliases").json == {"aliases": [{"alias": "live", "collection": "green"}]}
    assert rest("POST", "/v1/collections/live/records/count", {}).json["count"] == str(ROWS)
    assert rest("POST", "/v1/collections/green/rename", {"newName": "lime"}).json["collection"]["name"] == "lime"
    assert rest("GET", "/v1/collections/live").json["collection"]["aliases"] == ["live"]
    assert rest("DELETE", "/v1/aliases/live").status == 200

    def run(*arguments: str) -> Any:
        status, out, said = lookalike("collection", *arguments, "--server", named.address, "--json")
        assert status == 0, said
        return json.loads(out)

    assert run("alias", "create", "live", "blue") == {"live": "blue"}
    assert run("alias", "switch", "live", "lime") == {"live": "lime"}
    assert run("alias", "list") == {"live": "lime"}
    assert run("rename", "lime", "green")["aliases"] == ["live"]
    assert run("alias", "delete", "live") == {"deleted": "live"}
    assert run("alias", "list") == {}
