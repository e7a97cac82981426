"""Authorizers: which callers pass, and how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.model.errors import CannotStart, PermissionDenied, Unauthenticated
from lookalike.server.security.authorizer import (
    _ROLES,
    SECRET_KEY,
    ClusterAuthorizer,
    ClusterSecret,
    KeyAuthorizer,
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


def authorizer_for(rate: float | None = None, **grants: str) -> tuple[KeyAuthorizer, dict[str, str], Clock]:
    ring, issued = KeyRing().added("shop", grants, rate)  # type: ignore[arg-type]
    clock = Clock()
    return KeyAuthorizer(lambda: ring, clock, clock), {"authorization": f"Bearer {issued}"}, clock


def test_every_method_of_the_service_has_a_role() -> None:
    assert set(_ROLES) == {method.name for method in SERVICE.methods}


@pytest.mark.parametrize("method", [method.name for method in SERVICE.methods])
def test_every_method_needs_a_key_with_its_role(method: str) -> None:
    request = SERVICE.methods_by_name[method].input_type._concrete_class()
    for field in ("collection", "name", "new_name", "alias", "target"):
        if field in request.DESCRIPTOR.fields_by_name:
            setattr(request, field, "photos")
    authorizer, metadata, _ = authorizer_for(photos="admin", others="search")
    for wrong in ({}, {"authorization": "Bearer lk_0"}, {"authorization": "Basic x"}):
        with pytest.raises(Unauthenticated):
            authorizer.authenticate(method, wrong)
    if method != "Drain":
        assert authorizer.authorize(method, authorizer.authenticate(method, metadata), request) == 0
    authorizer, metadata, _ = authorizer_for(others="admin")
    if method not in ("ListCollections", "ListAliases", "ClusterStatus"):
        with pytest.raises(PermissionDenied, match="key 'shop': may not"):
            authorizer.authorize(method, authorizer.authenticate(method, metadata), request)


def test_every_caller_passes_until_the_first_key_exists() -> None:
    rings = [KeyRing()]
    authorizer = KeyAuthorizer(lambda: rings[-1])
    assert authorizer.authenticate("DropCollection", {}) is None
    assert authorizer.authorize("DropCollection", None, pb.DropCollectionRequest(name="photos")) == 0
    rings.append(KeyRing().added("first", {"others": "search"}, None)[0])
    with pytest.raises(Unauthenticated):
        authorizer.authenticate("DropCollection", {})


def test_a_key_must_permit_every_collection_of_a_request() -> None:
    authorizer, metadata, _ = authorizer_for(photos="admin", live="admin", others="search")
    key = authorizer.authenticate("CreateAlias", metadata)
    assert authorizer.authorize("CreateAlias", key, pb.CreateAliasRequest(alias="live", collection="photos")) == 0
    for method, request in (
        ("CreateAlias", pb.CreateAliasRequest(alias="live", collection="others")),
        ("SwitchAlias", pb.SwitchAliasRequest(alias="others", collection="photos")),
        ("RenameCollection", pb.RenameCollectionRequest(name="photos", new_name="others")),
        ("CopyRecords", pb.CopyRecordsRequest(collection="others", target="photos")),
        ("CopyRecords", pb.CopyRecordsRequest(collection="photos", target="others")),
    ):
        with pytest.raises(PermissionDenied, match="collection 'others'"):
            authorizer.authorize(method, key, request)


def test_unlisted_method_is_refused() -> None:
    authorizer, metadata, _ = authorizer_for(**{"*": "admin"})
    with pytest.raises(PermissionDenied):
        authorizer.authorize(
            "Reindex", authorizer.authenticate("Reindex", metadata), pb.SearchRequest(collection="photos")
        )


def test_role_permits_only_the_methods_of_its_level() -> None:
    authorizer, metadata, _ = authorizer_for(photos="search")
    with pytest.raises(PermissionDenied, match="needs role write"):
        authorizer.authorize(
            "Upsert", authorizer.authenticate("Upsert", metadata), pb.UpsertRequest(collection="photos")
        )
    authorizer, metadata, _ = authorizer_for(photos="write")
    with pytest.raises(PermissionDenied, match="needs role admin"):
        authorizer.authorize(
            "DropCollection",
            authorizer.authenticate("DropCollection", metadata),
            pb.DropCollectionRequest(name="photos"),
        )
    with pytest.raises(PermissionDenied, match="the whole cluster"):
        authorizer.authorize("Drain", authorizer.authenticate("Drain", metadata), pb.DrainRequest(partition=1))


def test_expired_key_is_unknown() -> None:
    ring, issued = KeyRing().added("shop", {"*": "search"}, None)
    ring, _ = ring.rotated("shop", 10, NOW)
    clock = Clock()
    authorizer = KeyAuthorizer(lambda: ring, clock, clock)
    authorizer.authenticate("Search", {"authorization": f"Bearer {issued}"})
    clock.now += 10
    with pytest.raises(Unauthenticated, match="unknown or expired"):
        authorizer.authenticate("Search", {"authorization": f"Bearer {issued}"})


def test_batch_counts_its_queries_and_delays_the_next_request() -> None:
    authorizer, metadata, clock = authorizer_for(rate=10, photos="search")
    batch = pb.SearchBatchRequest(collection="photos", queries=[pb.Query(key="a")] * 30)
    assert authorizer.authorize("SearchBatch", authorizer.authenticate("SearchBatch", metadata), batch) == 0
    wait = authorizer.authorize(
        "Search", authorizer.authenticate("Search", metadata), pb.SearchRequest(collection="photos")
    )
    assert 2.0 < wait <= 2.2
    clock.now += wait
    assert (
        authorizer.authorize(
            "Search", authorizer.authenticate("Search", metadata), pb.SearchRequest(collection="photos")
        )
        == 0
    )


def test_only_the_cluster_secret_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("a" * 32 + "\n" + "b" * 40 + "\n")
    authorizer = ClusterAuthorizer(ClusterSecret(path))
    for secret in ("a" * 32, "b" * 40):
        authorizer.authenticate("Scan", {SECRET_KEY: secret})
    for metadata in (
        {},
        {SECRET_KEY: ""},
        {SECRET_KEY: "a" * 33},
        {SECRET_KEY: "é" * 32},
        {"authorization": "a" * 32},
    ):
        with pytest.raises(Unauthenticated, match="Scan: is for the cluster's own processes"):
            authorizer.authenticate("Scan", metadata)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "secret is empty"),
        ("short", "secret 1 has 5 characters"),
        ("a" * 32 + "\nlonger", "secret 2 has 6 characters"),
        ("é" * 40, "secret 1 has other characters than ASCII"),
        (bytes(range(200, 240)), "secret 1 has other characters than ASCII"),
    ],
)
def test_invalid_secret_is_refused_at_start(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(CannotStart, match=rf"security.cluster_secret: .*{words}; use 32 .* openssl rand -hex 32"):
        ClusterSecret(path)
