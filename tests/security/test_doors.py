"""Every door of a cluster that is locked: tried without a key, with the wrong one, and with the right one."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from lookalike import AsyncClient, Client, Record, Tls
from lookalike.cli import app
from lookalike.cluster.slots import all_slots
from lookalike.model.errors import (
    DeadlineExceeded,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    PartitionUnavailable,
    PermissionDenied,
    Unauthenticated,
)
from lookalike.server.security.authorizer import SECRET_KEY
from lookalike.server.security.keys import KeyRing, load_keys, save_keys
from lookalike.v1 import search_pb2, shard_pb2
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from lookalike.v1.shard_pb2_grpc import ShardServiceStub
from tests.conftest import second_coordinator, wait_until
from tests.security.conftest import HOST, Certificates, Locked

BITS = 64
# A caller who gets nothing repeats the call until its time is over.
UNANSWERED = "does not answer|did not answer in time"


@pytest.fixture(scope="session", autouse=True)
def photos(locked: Locked) -> None:
    with locked.client() as client:
        for name in ("photos", "others"):
            client.create_collection(name, bits=BITS)
            client.upsert([Record("a", code=bytes(8)), Record("b", code=b"\xff" * 8)], collection=name)


def channel_of(
    locked: Locked, address: str, certificates: Certificates | None = None, name: str = "cluster"
) -> grpc.Channel:
    """A channel that trusts the cluster and shows this certificate, if any."""
    key = certificate = None
    if certificates is not None:
        certificate, key = ((certificates.folder / f"{name}.{end}").read_bytes() for end in ("pem", "key"))
    credentials = grpc.ssl_channel_credentials(locked.certificates.ca.read_bytes(), key, certificate)
    return grpc.secure_channel(address, credentials)


def shard_status(channel: grpc.Channel, secret: str | None = None) -> grpc.StatusCode:
    metadata = [(SECRET_KEY, secret)] if secret is not None else []
    try:
        ShardServiceStub(channel).ShardStatus(shard_pb2.ShardStatusRequest(), timeout=5, metadata=metadata)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_with_the_right_key_everything_works(locked: Locked) -> None:
    with locked.client("search") as client:
        assert client.search(code=bytes(8), k=1, collection="photos").hits[0].key == "a"
    with locked.client("write") as client:
        assert client.upsert([Record("c", code=b"\x01" * 8)], collection="photos") == 1
        assert [outcome.ok for outcome in client.ingest([Record("d", code=b"\x02" * 8)], collection="photos")] == [
            True
        ]
        assert client.delete(["c", "d"], collection="photos") == 2


async def test_the_asynchronous_client_shows_its_key_too(locked: Locked) -> None:
    address = locked.cluster.address
    async with AsyncClient(address, api_key=locked.keys["search"], tls=locked.tls) as client:
        assert (await client.search(code=bytes(8), k=1, collection="photos")).hits
    async with AsyncClient(address, tls=locked.tls) as client:
        with pytest.raises(Unauthenticated):
            await client.search(code=bytes(8), k=1, collection="photos")


CALLS: dict[str, Callable[[Client], object]] = {
    "search": lambda client: client.search(code=bytes(8), k=1, collection="photos"),
    "search_batch": lambda client: client.search_batch(codes=[bytes(8)], k=1, collection="photos"),
    "get": lambda client: client.get(["a"], collection="photos"),
    "collection": lambda client: client.get_collection("photos"),
    "upsert": lambda client: client.upsert([Record("x", code=bytes(8))], collection="photos"),
    "ingest": lambda client: list(
        client.ingest([Record("x", code=bytes(8), fingerprint="0" * 64)], collection="photos")
    ),
    "delete": lambda client: client.delete(["x"], collection="photos"),
    "create": lambda client: client.create_collection("photos", bits=BITS),
    "drop": lambda client: client.drop_collection("photos"),
    "backup": lambda client: list(client.backup("photos", all_slots())),
}


@pytest.mark.parametrize("name", CALLS)
def test_no_key_no_entry(locked: Locked, name: str) -> None:
    with Client(locked.cluster.address, tls=locked.tls) as client, pytest.raises(Unauthenticated, match="API key"):
        CALLS[name](client)


@pytest.mark.parametrize("name", CALLS)
def test_a_key_for_another_collection_does_not_open(locked: Locked, name: str) -> None:
    with locked.client("other") as client, pytest.raises(PermissionDenied, match="key 'other'"):
        CALLS[name](client)


@pytest.mark.parametrize("name", ["upsert", "ingest", "delete", "create", "drop", "backup"])
def test_a_searcher_writes_nothing(locked: Locked, name: str) -> None:
    with locked.client("search") as client, pytest.raises(PermissionDenied, match="takes role"):
        CALLS[name](client)
    with locked.client() as client:
        assert client.get_collection("photos").rows == 2


def test_made_up_keys_are_refused(locked: Locked) -> None:
    real = locked.keys["search"]
    for key in ("x", "lk_" + "0" * 12 + "_" + "A" * 43, real[:-1], real[:16] + secrets.token_urlsafe(32)):
        with (
            Client(locked.cluster.address, api_key=key, tls=locked.tls) as client,
            pytest.raises(Unauthenticated, match="unknown or expired"),
        ):
            client.status()


def test_a_key_that_cannot_be_sent_is_refused_before_it_is(locked: Locked) -> None:
    for key in ("two\nlines", "schlüssel"):
        with pytest.raises(InvalidRequest, match="api_key: is not a line of ASCII"):
            Client(locked.cluster.address, api_key=key)


def test_who_has_no_key_is_turned_away_before_its_message_is_read(locked: Locked) -> None:
    silence = threading.Event()

    def never() -> Iterator[bytes]:
        silence.wait(20)
        yield b""

    with channel_of(locked, locked.cluster.address) as channel:
        call = channel.stream_unary("/lookalike.v1.SearchService/Upsert")
        with pytest.raises(grpc.RpcError) as refused:
            call(never(), timeout=5)
        silence.set()
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_scheme_of_a_key_may_be_written_in_any_case(locked: Locked) -> None:
    with channel_of(locked, locked.cluster.address) as channel:
        for scheme in ("Bearer ", "bearer ", "BEARER ", ""):
            metadata = [("authorization", scheme + locked.keys["search"])]
            listed = SearchServiceStub(channel).ListCollections(
                search_pb2.ListCollectionsRequest(), timeout=5, metadata=metadata
            )
            assert [collection.name for collection in listed.collections] == ["photos"]


def test_one_sees_only_the_collections_that_one_may_search(locked: Locked) -> None:
    with locked.client("other") as client:
        assert [collection.name for collection in client.list_collections()] == ["others"]
        assert [collection.name for collection in client.status().collections] == ["others"]
    with locked.client() as client:
        assert {"photos", "others"} <= {collection.name for collection in client.list_collections()}


def test_plain_text_to_a_tls_port_gets_nothing(locked: Locked) -> None:
    for address in (locked.cluster.address, locked.cluster.config.shard_address(0)):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=5) as plain:
            plain.settimeout(5)
            plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            received = plain.recv(1000)
        assert b"\x00\x00\x00\x04" not in received
    with (
        Client(locked.cluster.address, api_key=locked.keys["admin"], timeout=1) as client,
        pytest.raises((PartitionUnavailable, DeadlineExceeded), match=UNANSWERED),
    ):
        client.status()


def test_a_server_that_another_ca_signed_is_not_trusted(locked: Locked, tmp_path: Path) -> None:
    stranger = Tls(ca=Certificates(tmp_path).ca)
    with (
        Client(locked.cluster.address, api_key=locked.keys["admin"], tls=stranger, timeout=1) as client,
        pytest.raises((PartitionUnavailable, DeadlineExceeded)),
    ):
        client.status()


def test_a_shard_talks_to_nobody_but_the_cluster(locked: Locked, tmp_path: Path) -> None:
    address = locked.cluster.config.shard_address(0)
    inside = locked.certificates
    with channel_of(locked, address, inside) as channel:
        assert shard_status(channel, locked.secret) is grpc.StatusCode.OK
        assert shard_status(channel) is grpc.StatusCode.UNAUTHENTICATED
        assert shard_status(channel, "0" * 64) is grpc.StatusCode.UNAUTHENTICATED
    stranger = Certificates(tmp_path)
    stranger.issue("cluster")
    with channel_of(locked, address) as channel:
        assert shard_status(channel, locked.secret) is grpc.StatusCode.UNAVAILABLE
    with channel_of(locked, address, stranger) as channel:
        assert shard_status(channel, locked.secret) is grpc.StatusCode.UNAVAILABLE
    with grpc.insecure_channel(address) as channel:
        assert shard_status(channel, locked.secret) is grpc.StatusCode.UNAVAILABLE


def test_an_expired_certificate_opens_no_shard(locked: Locked) -> None:
    locked.certificates.issue("expired", expires=timedelta(seconds=-1))
    with channel_of(locked, locked.cluster.config.shard_address(0), locked.certificates, "expired") as channel:
        assert shard_status(channel, locked.secret) is grpc.StatusCode.UNAVAILABLE


def test_an_api_key_opens_no_shard(locked: Locked) -> None:
    with channel_of(locked, locked.cluster.config.shard_address(0), locked.certificates) as channel:
        call = ShardServiceStub(channel).ShardStatus
        with pytest.raises(grpc.RpcError) as refused:
            call(
                shard_pb2.ShardStatusRequest(),
                timeout=5,
                metadata=[("authorization", f"Bearer {locked.keys['admin']}")],
            )
    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_clients_show_certificates_where_the_config_says_who_signs_them(
    locked: Locked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, strangers = Certificates(tmp_path), Certificates(tmp_path / "strangers")
    strangers.folder.mkdir()
    certificate, key = clients.issue("client", "someone")
    monkeypatch.setenv("LOOKALIKE__SECURITY__TLS__CLIENT_CA", str(clients.ca))
    inside = locked.certificates
    health = inside.folder / "cluster.pem", inside.folder / "cluster.key"
    with second_coordinator(locked.cluster, Tls(inside.ca, *health)) as address:
        for tls, opens in (
            (Tls(inside.ca, certificate, key), True),
            (Tls(inside.ca, *strangers.issue("client", "someone")), False),
            (Tls(inside.ca, *clients.issue("old", "someone", timedelta(seconds=-1))), False),
            (Tls(inside.ca), False),
        ):
            with Client(address, api_key=locked.keys["admin"], tls=tls, timeout=5 if opens else 1) as client:
                if opens:
                    assert client.status().partitions
                else:
                    with pytest.raises(LookalikeError, match=UNANSWERED):
                        client.status()


def test_a_certificate_is_renewed_without_a_restart(locked: Locked) -> None:
    def served(address: str) -> int:
        host, _, port = address.rpartition(":")
        context = ssl.create_default_context(cafile=str(locked.certificates.ca))
        folder = locked.certificates.folder
        context.load_cert_chain(folder / "cluster.pem", folder / "cluster.key")
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            context.wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            certificate = secure.getpeercert()
        assert certificate
        return int(str(certificate["serialNumber"]), 16)

    config = locked.cluster.config
    pids = [locked.cluster.pid(name) for name in ("coordinator", "shard-r0-0")]
    addresses = [locked.cluster.address, config.shard_address(0), config.shard_address(1, 1)]
    before = [served(address) for address in addresses]
    locked.certificates.issue("cluster")
    wait_until(lambda: all(served(a) != b for a, b in zip(addresses, before, strict=True)), 10)
    with locked.client() as client:
        assert client.search(code=bytes(8), k=1, collection="photos").coverage.complete
        # The cluster's own connections are opened anew with the new certificate, and work.
        locked.cluster.kill("shard-r0-1")
        wait_until(lambda: all(r.state == "serving" for p in client.status().partitions for r in p.replicas), 30)
    assert pids == [locked.cluster.pid(name) for name in ("coordinator", "shard-r0-0")]


def test_a_half_written_certificate_leaves_the_last_one_in_force(locked: Locked) -> None:
    certificate = locked.certificates.folder / "cluster.pem"
    whole = certificate.read_bytes()
    certificate.write_bytes(whole[: len(whole) // 2])
    try:
        time.sleep(1.5)  # longer than files go unlooked at
        with locked.client() as client:
            assert client.status().partitions
    finally:
        certificate.write_bytes(whole)


def test_keys_are_given_rotated_and_taken_back_without_a_restart(locked: Locked) -> None:
    ring, first = load_keys(locked.keys_file).added("guest", {"photos": "search"}, None)
    save_keys(locked.keys_file, ring)
    wait_until(lambda: locked.knows(first), 5)
    ring, second = ring.rotated("guest", 3600, time.time())
    save_keys(locked.keys_file, ring)
    wait_until(lambda: locked.knows(second), 5)
    assert locked.knows(first)
    save_keys(locked.keys_file, ring.removed("guest"))
    wait_until(lambda: not locked.knows(first), 5)
    assert not locked.knows(second)


def test_a_key_is_held_to_its_rate(locked: Locked) -> None:
    ring, key = load_keys(locked.keys_file).added("slow", {"photos": "write"}, 200)
    save_keys(locked.keys_file, ring)
    wait_until(lambda: locked.knows(key), 5)
    with Client(locked.cluster.address, api_key=key, tls=locked.tls, timeout=0.5) as client:

        def search_without_end() -> None:
            for _ in range(100):
                client.search_batch(codes=[bytes(8)] * 400, k=1, collection="photos")

        with pytest.raises(Overloaded, match="rate") as refused:
            search_without_end()
        assert refused.value.retry_after_ms
    with Client(locked.cluster.address, api_key=key, tls=locked.tls) as client:
        began = time.monotonic()
        outcomes = list(client.ingest((Record(f"r{i}", code=bytes(8)) for i in range(1_024)), collection="photos"))
        assert all(outcome.ok for outcome in outcomes)
        assert time.monotonic() - began > 2.5, "a stream waits instead of failing"
        wait_until(lambda: not _raises(Overloaded, lambda: client.get_collection("photos")), 30)
    with locked.client() as client:
        client.delete([f"r{i}" for i in range(1_024)], collection="photos")


def test_health_and_reflection_need_no_key(locked: Locked) -> None:
    with channel_of(locked, locked.cluster.address) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_limits_of_a_config_hold(locked: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_K": "5", "MAX_BATCH": "2", "MAX_IMAGE_MB": "1"}.items():
        monkeypatch.setenv(f"LOOKALIKE__LIMITS__{name}", value)
    inside = locked.certificates
    with (
        second_coordinator(locked.cluster, Tls(inside.ca)) as address,
        Client(address, api_key=locked.keys["admin"], tls=locked.tls) as client,
    ):
        with pytest.raises(InvalidRequest, match="k: is 6; use a whole number from 1 to 5"):
            client.search(code=bytes(8), k=6, collection="photos")
        with pytest.raises(InvalidRequest, match=r"queries: 3 in one request; send 1..2"):
            client.search_batch(codes=[bytes(8)] * 3, k=1, collection="photos")
        with pytest.raises(InvalidRequest, match="image: has 1,048,577 bytes"):
            client.search(image=bytes(2**20 + 1), k=1, collection="photos")


def list_collections_with_header(locked: Locked, value: bytes) -> bytes:
    """What the coordinator sends back to a call whose authorization is this, which gRPC's own clients may refuse
    to send. HTTP/2 by hand: RFC 9113 for frames, RFC 7541 for headers."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload

    headers = {
        b":method": b"POST", b":scheme": b"https", b":authority": HOST.encode(), b"te": b"trailers",
        b":path": b"/lookalike.v1.SearchService/ListCollections", b"content-type": b"application/grpc",
        b"authorization": value,
    }  # fmt: skip
    block = b"".join(bytes([0, len(name)]) + name + bytes([len(text)]) + text for name, text in headers.items())
    context = ssl.create_default_context(cafile=str(locked.certificates.ca))
    context.set_alpn_protocols(["h2"])
    host, _, port = locked.cluster.address.rpartition(":")
    answer = b""
    with (
        socket.create_connection((host, int(port)), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as secure,
    ):
        secure.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"") + frame(1, 4, 1, block))
        secure.sendall(frame(0, 1, 1, bytes(5)))
        while b"grpc-status" not in answer:
            received = secure.recv(4096)
            assert received, answer
            answer += received
    return answer


def test_secrets_are_in_no_log_and_no_status(locked: Locked) -> None:
    mistyped = f"Bearer {locked.keys['search']}".encode() + b"\xff"
    assert b"Unauthenticated" in list_collections_with_header(locked, mistyped)
    with locked.client() as client:
        status = repr(client.status())
        with pytest.raises(NotFound):
            client.get_collection("none")
    logs = [path.read_text() for path in (locked.cluster.data / "logs").glob("*.log")]
    assert len(logs) == 5
    assert any("NotFound" in log for log in logs)
    stored = [*load_keys(locked.keys_file).keys.values()]
    hashes = [secret.sha256 for key in stored for secret in key.secrets]
    for hidden in (locked.secret, *locked.keys.values(), *hashes):
        assert hidden not in status
        assert not any(hidden in log for log in logs)


def _raises(kind: type[LookalikeError], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


def test_the_last_key_is_not_removed_by_accident(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    save_keys(file, KeyRing().added("only", {"*": "admin"}, None)[0])
    runner = CliRunner()
    refused = runner.invoke(app, ["keys", "remove", "only", "--file", str(file)])
    assert "has the last key" in str(refused.exception)
    assert load_keys(file).keys
    assert runner.invoke(app, ["keys", "remove", "only", "--file", str(file), "--open-to-everyone"]).exit_code == 0
    assert not load_keys(file).keys


def test_of_keys_that_are_added_at_once_none_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    command = [
        sys.executable,
        "-m",
        "lookalike",
        "keys",
        "add",
        "second",
        "--grant",
        "search",
        "--file",
        str(file),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as second:
        opened = Path(f"/proc/{second.pid}/fd")
        wait_until(lambda: any(link.resolve() == tmp_path for link in opened.iterdir()), 60)
        save_keys(file, KeyRing().added("first", {"*": "admin"}, None)[0])
        os.close(folder)
        assert second.wait(60) == 0
    assert sorted(load_keys(file).keys) == ["first", "second"]
