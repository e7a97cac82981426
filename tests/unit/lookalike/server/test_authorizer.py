"""The gates: who passes, who does not, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.model.errors import CannotStart, PermissionDenied, Unauthenticated
from lookalike.server.security.authorizer import (
    _ROLES,
    SECRET_KEY,
    Bucket,
    ClusterAuthorizer,
    ClusterSecret,
    KeyGate,
)
from lookalike.server.security.keys import KeyRing
from lookalike.v1 import search_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["SearchService"]
NOW = 1_000.0


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


def gate_for(rate: float | None = None, **grants: str) -> tuple[KeyGate, dict[str, str], Clock]:
    ring, issued = KeyRing().added("shop", grants, rate)  # type: ignore[arg-type]
    clock = Clock()
    return KeyGate(lambda: ring, clock, clock), {"authorization": f"Bearer {issued}"}, clock


def test_every_method_of_the_service_has_a_role() -> None:
    assert set(_ROLES) == {method.name for method in SERVICE.methods}


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_method_asks_for_a_key_and_for_its_role(method: str) -> None:
    request = SERVICE.methods_by_name[method].input_type._concrete_class()
    for field in ("collection", "name"):
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, "photos")
    gate, bearing, _ = gate_for(photos="admin", others="search")
    for wrong in ({}, {"authorization": "Bearer lk_0"}, {"authorization": "Basic x"}):
        with pytest.raises(Unauthenticated):
            gate.enter(method, wrong)
    if method != "Drain":
        assert gate.pass_request(method, gate.enter(method, bearing), request) == 0
    gate, bearing, _ = gate_for(others="admin")
    if method not in ("ListCollections", "ClusterStatus"):
        with pytest.raises(PermissionDenied, match="key 'shop': may not"):
            gate.pass_request(method, gate.enter(method, bearing), request)


def test_before_there_is_a_key_everyone_passes_and_afterwards_nobody_without() -> None:
    rings = [KeyRing()]
    gate = KeyGate(lambda: rings[-1])
    assert gate.enter("DropCollection", {}) is None
    assert gate.pass_request("DropCollection", None, pb.DropCollectionRequest(name="photos")) == 0
    rings.append(KeyRing().added("first", {"others": "search"}, None)[0])
    with pytest.raises(Unauthenticated):
        gate.enter("DropCollection", {})


def test_a_method_that_nobody_thought_of_is_refused() -> None:
    gate, bearing, _ = gate_for(**{"*": "admin"})
    with pytest.raises(PermissionDenied):
        gate.pass_request("Reindex", gate.enter("Reindex", bearing), pb.SearchRequest(collection="photos"))


def test_searching_does_not_let_write_and_writing_does_not_let_drop() -> None:
    gate, bearing, _ = gate_for(photos="search")
    with pytest.raises(PermissionDenied, match="takes role write"):
        gate.pass_request("Upsert", gate.enter("Upsert", bearing), pb.UpsertRequest(collection="photos"))
    gate, bearing, _ = gate_for(photos="write")
    with pytest.raises(PermissionDenied, match="takes role admin"):
        gate.pass_request(
            "DropCollection", gate.enter("DropCollection", bearing), pb.DropCollectionRequest(name="photos")
        )
    with pytest.raises(PermissionDenied, match="the whole cluster"):
        gate.pass_request("Drain", gate.enter("Drain", bearing), pb.DrainRequest(partition=1))


def test_a_key_that_has_run_out_is_unknown() -> None:
    ring, issued = KeyRing().added("shop", {"*": "search"}, None)
    ring, _ = ring.rotated("shop", 10, NOW)
    clock = Clock()
    gate = KeyGate(lambda: ring, clock, clock)
    gate.enter("Search", {"authorization": f"Bearer {issued}"})
    clock.now += 10
    with pytest.raises(Unauthenticated, match="run out"):
        gate.enter("Search", {"authorization": f"Bearer {issued}"})


def test_a_batch_counts_as_many_and_holds_up_what_follows() -> None:
    gate, bearing, clock = gate_for(rate=10, photos="search")
    batch = pb.SearchBatchRequest(collection="photos", queries=[pb.Query(key="a")] * 30)
    assert gate.pass_request("SearchBatch", gate.enter("SearchBatch", bearing), batch) == 0
    wait = gate.pass_request("Search", gate.enter("Search", bearing), pb.SearchRequest(collection="photos"))
    assert 2.0 < wait <= 2.2
    clock.now += wait
    assert gate.pass_request("Search", gate.enter("Search", bearing), pb.SearchRequest(collection="photos")) == 0


def test_a_bucket_lets_its_rate_through_and_no_more() -> None:
    bucket = Bucket(50, NOW)
    passed = sum(bucket.take(1, NOW + i / 1000) == 0 for i in range(10_000))
    assert 50 + 490 <= passed <= 50 + 501


def test_the_cluster_secret_opens_and_nothing_else_does(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("a" * 32 + "\n" + "b" * 40 + "\n")
    gate = ClusterAuthorizer(ClusterSecret(path))
    for secret in ("a" * 32, "b" * 40):
        gate.enter("Scan", {SECRET_KEY: secret})
    for bearing in (
        {},
        {SECRET_KEY: ""},
        {SECRET_KEY: "a" * 33},
        {SECRET_KEY: "é" * 32},
        {"authorization": "a" * 32},
    ):
        with pytest.raises(Unauthenticated, match="Scan: is for the cluster's own processes"):
            gate.enter("Scan", bearing)


@pytest.mark.parametrize("content", ["", "short", "a" * 32 + "\nshort", "é" * 40, bytes(range(200, 240))])
def test_a_secret_that_is_none_is_refused_at_start(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CannotStart, match=r"security.cluster_secret: .* openssl rand -hex 32"):
        ClusterSecret(path)
