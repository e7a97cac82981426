"""TLS, keys and roles over HTTP: the same rules as over gRPC."""

from __future__ import annotations

import json
import socket
import ssl
import urllib.error
import urllib.request
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from lookalike import Record, Tls
from tests.conftest import second_coordinator, wait_until
from tests.security.conftest import HOST, Certificates, SecuredCluster


@pytest.fixture(scope="module", autouse=True)
def collections(secured: SecuredCluster) -> None:
    with secured.client() as client:
        for name in ("web-photos", "web-others"):
            client.create_collection(name, bits=64)
            client.upsert([Record("a", code=bytes(8))], collection=name)


def call(
    secured: SecuredCluster,
    path: str,
    key: str | None = None,
    body: Any = None,
    method: str | None = None,
    context: ssl.SSLContext | None = None,
) -> tuple[int, Any]:
    """Returns the status and the body of a response, or the error of its JSON."""
    headers = {"content-type": "application/json"}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(secured.cluster.config.web_url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context or trusting(secured)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as rejected:
        with rejected:
            return rejected.code, json.loads(rejected.read())["error"]


def trusting(secured: SecuredCluster) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(secured.certificates.ca))


SEARCH = {"query": {"key": "a"}, "options": {"k": 1}}


def test_only_static_pages_are_served_without_a_key(secured: SecuredCluster) -> None:
    for path in ("/", "/cluster", "/healthz", "/openapi.json"):
        assert call(secured, path)[0] == 200
    for path in ("/v1/status", "/v1/collections", "/v1/collections/web-photos/records?key=a"):
        status, error = call(secured, path)
        assert (status, error["code"]) == (401, "Unauthenticated")


def test_a_key_has_the_same_rights_over_http_as_over_grpc(secured: SecuredCluster) -> None:
    operator, other = secured.keys["admin"], secured.keys["other"]
    assert call(secured, "/v1/collections/web-photos/search", operator, SEARCH)[0] == 200
    status, error = call(secured, "/v1/collections/web-photos/search", other, SEARCH)
    assert (status, error["code"]) == (403, "PermissionDenied")
    assert call(secured, "/v1/collections/web-photos", other, method="DELETE")[0] == 403
    assert call(secured, "/v1/collections/web-photos/thumbnail?key=a", other)[0] == 403
    assert b"web-photos" not in call(secured, "/v1/collections", other)[1]


def test_unknown_keys_are_rejected(secured: SecuredCluster) -> None:
    for key in ("x", secured.keys["admin"][:-1], "lk_" + "0" * 12 + "_" + "A" * 43):
        assert call(secured, "/v1/status", key)[0] == 401


def test_plain_http_gets_no_answer(secured: SecuredCluster) -> None:
    host, _, port = secured.cluster.config.coordinator.web.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as plain:
        plain.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"ok" not in plain.recv(1000)


def test_a_client_that_trusts_another_ca_rejects_the_certificate(secured: SecuredCluster, tmp_path: Path) -> None:
    stranger = ssl.create_default_context(cafile=str(Certificates(tmp_path).ca))
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        call(secured, "/healthz", context=stranger)


def test_the_web_certificate_is_renewed_without_a_restart(secured: SecuredCluster) -> None:
    def served() -> str:
        host, _, port = secured.cluster.config.coordinator.web.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=5) as plain,
            trusting(secured).wrap_socket(plain, server_hostname=HOST) as secure,
        ):
            certificate = secure.getpeercert()
        assert certificate
        return str(certificate["serialNumber"])

    before = served()
    secured.certificates.issue("cluster")
    wait_until(lambda: served() != before, 10)
    assert call(secured, "/healthz")[0] == 200


def test_the_web_port_requires_client_certificates_if_configured(
    secured: SecuredCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients = Certificates(tmp_path)
    monkeypatch.setenv("LOOKALIKE__SECURITY__TLS__CLIENT_CA", str(clients.ca))
    inside = secured.certificates
    own = Tls(inside.ca, inside.folder / "cluster.pem", inside.folder / "cluster.key")
    with second_coordinator(secured.cluster, own) as address:
        web = f"https://{address[:-2]}98/healthz"
        for certificate, opens in (
            (clients.issue("client", "someone"), True),
            (clients.issue("old", "someone", timedelta(seconds=-1)), False),
            (None, False),
        ):
            context = trusting(secured)
            if certificate is not None:
                context.load_cert_chain(*certificate)
            if opens:
                with urllib.request.urlopen(web, timeout=10, context=context) as answer:
                    assert answer.status == 200
            else:
                with pytest.raises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
                    urllib.request.urlopen(web, timeout=10, context=context)
