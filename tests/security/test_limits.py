"""Limits of a coordinator: a key's rate, and the sizes of requests."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from lookalike import Client, Record, Tls
from lookalike.model.errors import (
    InvalidRequest,
    LookalikeError,
    Overloaded,
)
from lookalike.server.security.keys import load_keys, save_keys
from tests.conftest import second_coordinator, wait_until
from tests.security.conftest import SecuredCluster

pytestmark = pytest.mark.usefixtures("photos")


def test_a_key_is_limited_to_its_rate(secured: SecuredCluster) -> None:
    ring, key = load_keys(secured.keys_file).added("slow", {"photos": "write"}, 200)
    save_keys(secured.keys_file, ring)
    wait_until(lambda: secured.accepts(key), 5)
    with Client(secured.cluster.address, api_key=key, tls=secured.tls, timeout=0.5) as client:

        def search_until_rejected() -> None:
            for _ in range(100):
                client.search_batch(codes=[bytes(8)] * 400, k=1, collection="photos")

        with pytest.raises(Overloaded, match="rate") as rejected:
            search_until_rejected()
        assert rejected.value.retry_after_ms
    with Client(secured.cluster.address, api_key=key, tls=secured.tls) as client:
        began = time.monotonic()
        outcomes = list(client.ingest((Record(f"r{i}", code=bytes(8)) for i in range(1_024)), collection="photos"))
        assert all(outcome.ok for outcome in outcomes)
        assert time.monotonic() - began > 2.5, "a stream must wait instead of failing"
        wait_until(lambda: not _raises(Overloaded, lambda: client.get_collection("photos")), 30)
    with secured.client() as client:
        client.delete([f"r{i}" for i in range(1_024)], collection="photos")


def test_configured_limits_are_enforced(secured: SecuredCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_K": "5", "MAX_BATCH": "2", "MAX_IMAGE_MB": "1"}.items():
        monkeypatch.setenv(f"LOOKALIKE__LIMITS__{name}", value)
    inside = secured.certificates
    with (
        second_coordinator(secured.cluster, Tls(inside.ca)) as address,
        Client(address, api_key=secured.keys["admin"], tls=secured.tls) as client,
    ):
        with pytest.raises(InvalidRequest, match="k: is 6; use a whole number from 1 to 5"):
            client.search(code=bytes(8), k=6, collection="photos")
        with pytest.raises(InvalidRequest, match=r"queries: 3 in one request; send 1..2"):
            client.search_batch(codes=[bytes(8)] * 3, k=1, collection="photos")
        with pytest.raises(InvalidRequest, match="image: has 1,048,577 bytes"):
            client.search(image=bytes(2**20 + 1), k=1, collection="photos")


def _raises(kind: type[LookalikeError], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False
