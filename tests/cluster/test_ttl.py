"""Records expire on a real cluster: by age and by an attribute, set through the SDK, REST and the command line."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from lookalike import AsyncClient, Client, Record, Ttl
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import InvalidRequest, NotFound
from tests.command import lookalike
from tests.conftest import Cluster, wait_until
from tests.web.rest import Rest

SWEEP_SECONDS = 0.5
# The longest that an expired record may stay on an idle machine: sweeps take at most a tenth of the time.
PROMISED_SECONDS = 10.0


@pytest.fixture(scope="module")
def sweeping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    data = tmp_path_factory.mktemp("ttl")
    config = ephemeral_config(data, 2, replicas=2)
    coordinator = config.coordinator.model_copy(update={"ttl_seconds": SWEEP_SECONDS})
    running = Cluster(config.model_copy(update={"coordinator": coordinator}), data)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def owner(sweeping: Cluster) -> Iterator[Client]:
    with sweeping.client() as client:
        yield client


def keys(client: Client, collection: str) -> set[str]:
    return {record.key for record in client.scroll(collection=collection, consistency="quorum")}


def in_seconds(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@pytest.mark.parametrize("indexed", [(), ("expires",)])
def test_records_expire_at_the_time_in_an_attribute(owner: Client, indexed: tuple[str, ...]) -> None:
    name = f"by-attribute-{len(indexed)}"
    made = owner.create_collection(name, bits=64, index_attributes=indexed, ttl=Ttl(attribute="expires"))
    assert made.ttl == Ttl(attribute="expires")
    now = time.time()
    lives = {"number": now + 600, "text": in_seconds(600), "other": "soon", "true": True}
    dies = {"number": now - 1, "text": in_seconds(-2), "later": now + 2, "later-text": in_seconds(2)}
    records = [Record(f"lives {kind}", code=bytes(8), attributes={"expires": at}) for kind, at in lives.items()]
    records += [Record(f"dies {kind}", code=bytes(8), attributes={"expires": at}) for kind, at in dies.items()]
    records += [Record("lives always", code=bytes(8))]
    owner.upsert(records, collection=name)
    survivors = {record.key for record in records if record.key.startswith("lives")}
    assert keys(owner, name) >= survivors | {"dies later", "dies later-text"}
    wait_until(lambda: keys(owner, name) <= survivors, 3 + PROMISED_SECONDS)
    assert keys(owner, name) == survivors
    assert owner.count(collection=name).count == len(survivors)
    assert owner.get(["dies text"], collection=name, consistency="quorum") == []


def test_records_expire_by_age_and_a_write_renews_them(owner: Client) -> None:
    owner.create_collection("by-age", bits=64)
    owner.upsert([Record(f"k{i}", code=bytes(8), attributes={"i": i}) for i in range(3_000)], collection="by-age")
    written = time.time()
    assert owner.set_ttl("by-age", Ttl(age_seconds=4)).ttl == Ttl(age_seconds=4)
    touched = [f"k{i}" for i in range(10)]
    while keys(owner, "by-age") != set(touched):
        assert time.time() < written + 3 * (4 + PROMISED_SECONDS)
        assert owner.set_attributes({"touched": time.time()}, collection="by-age", keys=touched) == 10
        time.sleep(0.2)
    assert keys(owner, "by-age") == set(touched)
    assert owner.set_ttl("by-age", None).ttl is None
    time.sleep(8)
    assert keys(owner, "by-age") == set(touched), "no record expires once the TTL is off"


def test_a_ttl_stays_with_a_renamed_collection_and_ends_with_a_dropped_one(owner: Client) -> None:
    owner.create_collection("old", bits=64, ttl=Ttl(attribute="expires"))
    owner.create_alias("alias", "old")
    assert owner.rename_collection("old", "new").ttl == Ttl(attribute="expires")
    owner.upsert([Record("a", code=bytes(8), attributes={"expires": 0})], collection="alias")
    wait_until(lambda: keys(owner, "new") == set(), PROMISED_SECONDS)
    owner.delete_alias("alias")
    owner.drop_collection("new")
    owner.create_collection("new", bits=64)
    assert owner.get_collection("new").ttl is None
    owner.upsert([Record("a", code=bytes(8), attributes={"expires": 0})], collection="new")
    time.sleep(4)
    assert keys(owner, "new") == {"a"}


async def test_the_asynchronous_client_rest_and_the_command_line_set_a_ttl(sweeping: Cluster) -> None:
    def run(*arguments: object) -> Any:
        status, out, said = lookalike("collection", *arguments, "--server", sweeping.address, "--json")
        assert status == 0, said
        return json.loads(out)

    rest = Rest(sweeping.config.coordinator.web)
    body = {"name": "ways", "bits": 64, "ttl": {"ageSeconds": "90"}}
    assert rest("POST", "/v1/collections", body).json["collection"]["ttl"] == {"ageSeconds": "90"}
    async with AsyncClient(sweeping.address) as client:
        assert (await client.set_ttl("ways", Ttl(attribute="a.b"))).ttl == Ttl(attribute="a.b")
    path = "/v1/collections/ways/ttl"
    assert rest("PUT", path, {"ttl": {"attribute": "c"}}).json["collection"]["ttl"] == {"attribute": "c"}
    assert "ttl" not in rest("PUT", path, {}).json["collection"]
    assert rest("PUT", path, {"ttl": {"ageSeconds": "0"}}).error["code"] == "InvalidRequest"
    assert run("ttl", "ways", "--age", "30d")["ttl"]["age_seconds"] == 30 * 86_400
    assert run("ttl", "ways", "--attribute", "expires")["ttl"]["attribute"] == "expires"
    assert run("ttl", "ways", "--off")["ttl"] is None
    assert run("create", "made", "--bits", 64, "--ttl-age", "1h")["ttl"]["age_seconds"] == 3_600
    status, out, _ = lookalike("collection", "show", "made", "--server", sweeping.address)
    assert (status, out.strip().endswith("expires after 3,600 s")) == (0, True)
    for wrong in ((), ("--age", "1h", "--off"), ("--age", "soon")):
        status, out, said = lookalike("collection", "ttl", "made", *wrong, "--server", sweeping.address)
        assert (status, out, said.count("\n")) == (1, "", 1)


def test_a_ttl_that_is_not_one_is_refused(owner: Client) -> None:
    with pytest.raises(NotFound):
        owner.set_ttl("nobody", Ttl(age_seconds=1))
    with pytest.raises(InvalidRequest, match="ttl"):
        Ttl()
