"""REST returns the same answers and errors as gRPC."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from coordinator.web import connection
from coordinator.web.gateway import Caller, Gateway
from lookalike import Client
from lookalike.model.errors import DeadlineExceeded
from lookalike.transport.rpc import MAX_MESSAGE_BYTES
from lookalike.v1.search_pb2 import ClusterStatusRequest
from tests.conftest import Cluster
from tests.web.conftest import THUMBNAIL
from tests.web.rest import Rest, form


def code(number: int) -> str:
    return base64.b64encode(number.to_bytes(8, "big")).decode()


def test_collection_can_be_created_listed_read_and_dropped(rest: Rest) -> None:
    made = rest("POST", "/v1/collections", {"name": "by-rest", "bits": 64})
    assert made.status == 201
    assert made.json["collection"]["codeSpace"]["bits"] == 64
    assert "by-rest" in [found["name"] for found in rest("GET", "/v1/collections").json["collections"]]
    assert rest("GET", "/v1/collections/by-rest").json["collection"] == made.json["collection"]
    assert rest("GET", "/v1/collections/by-rest?includeHash=true").json["hashFile"] == ""
    assert rest("DELETE", "/v1/collections/by-rest").json == {}
    assert rest("GET", "/v1/collections/by-rest").status == 404


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_records_can_be_written_read_and_deleted(rest: Rest, collection: str, method: str) -> None:
    path = f"/v1/collections/{collection}"
    fingerprint = rest("GET", path).json["collection"]["codeSpace"]["fingerprint"]
    records = [{"key": f"ü/{n}", "code": code(n), "attributes": json.dumps({"n": n})} for n in range(3)]
    assert rest(method, f"{path}/records", {"records": records, "fingerprint": fingerprint}).json == {
        "upserted": "3"
    }
    read = rest("GET", f"{path}/records?key=%C3%BC/2&key=missing&key=%C3%BC/0&consistency=CONSISTENCY_QUORUM")
    assert [(record["key"], record["code"]) for record in read.json["records"]] == [
        ("ü/2", code(2)),
        ("ü/0", code(0)),
    ]
    assert rest("DELETE", f"{path}/records?key=%C3%BC/2&key=missing").json == {"deleted": "1"}
    assert rest("GET", f"{path}/records?key=%C3%BC/2").json == {"records": []}


def test_writes_can_name_a_version(rest: Rest, collection: str) -> None:
    path = f"/v1/collections/{collection}/records"
    new = {"records": [{"key": "a", "code": code(1), "ifVersion": "0"}]}
    assert rest("PUT", path, new).json == {"upserted": "1"}
    conflict = rest("PUT", path, new)
    assert conflict.status == 409
    assert conflict.error["message"].startswith("if_version: record 'a' has version ")
    version = rest("GET", f"{path}?key=a").json["records"][0]["version"]
    change = {"keys": ["a"], "attributes": '{"n": 1}', "ifVersions": [version]}
    assert rest("POST", f"{path}/set-attributes", change).json == {"changed": "1", "cursor": "", "warnings": []}
    assert rest("POST", f"{path}/set-attributes", change).status == 409
    assert rest("DELETE", f"{path}?key=a&ifVersion={version}").status == 409
    assert rest("DELETE", f"{path}?key=a&ifVersion=x").status == 400
    version = rest("GET", f"{path}?key=a").json["records"][0]["version"]
    assert rest("DELETE", f"{path}?key=a&ifVersion={version}").json == {"deleted": "1"}


def test_pages_groups_and_excluded_keys(rest: Rest, filled: str) -> None:
    def search(**options: object) -> dict[str, Any]:
        body = {"query": {"key": "k0"}, "options": {"k": 4, **options}}
        found: dict[str, Any] = rest("POST", f"/v1/collections/{filled}/search", body).json
        return found

    pages = [search()]
    while pages[-1]["more"]:
        pages.append(search(after=pages[-1]["cursor"]))
    keys = [hit["key"] for page in pages for hit in page["hits"]]
    assert [len(page["hits"]) for page in pages] == [4, 4, 1]
    assert sorted(keys) == [f"k{number}" for number in range(1, 10)]
    assert pages[-1]["cursor"] == ""
    assert [hit["key"] for hit in search(offset=4)["hits"]] == keys[4:8]
    assert [hit["key"] for hit in search(excludeKeys=keys[:5])["hits"]] == keys[5:]
    groups = search(groupBy="number", k=2)["groups"]
    assert [(group["value"], [hit["key"] for hit in group["hits"]]) for group in groups] == [
        ({"integer": key[1:]}, [key]) for key in keys[:2]
    ]
    other = {"query": {"key": "k1"}, "options": {"k": 1, "after": pages[0]["cursor"]}}
    wrong = rest("POST", f"/v1/collections/{filled}/search", other)
    assert (wrong.status, wrong.error["code"]) == (400, "InvalidRequest")


def test_search_matches_the_client(rest: Rest, client: Client, filled: str) -> None:
    options = {"k": 4, "includeAttributes": True, "filter": {"range": {"field": "number", "gte": 2}}}
    answer = rest("POST", f"/v1/collections/{filled}/search", {"query": {"key": "k2"}, "options": options}).json
    expected = client.search(
        key="k2", k=4, filter={"number": {"$gte": 2}}, include_attributes=True, collection=filled
    )
    assert [(hit["key"], hit["distance"], json.loads(hit["attributes"])) for hit in answer["hits"]] == [
        (hit.key, hit.distance, hit.attributes) for hit in expected.hits
    ]
    assert answer["exact"] is True
    assert answer["coverage"]["rowsSearched"] == "10"
    assert answer["coverage"]["partitions"] == answer["coverage"]["answered"] == 3


def test_snake_case_is_accepted_and_zero_distance_is_included(rest: Rest, filled: str) -> None:
    fingerprint = rest("GET", f"/v1/collections/{filled}").json["collection"]["codeSpace"]["fingerprint"]
    body = {"query": {"code": code(5)}, "options": {"k": 1, "max_distance": 0}, "fingerprint": fingerprint}
    assert rest("POST", f"/v1/collections/{filled}/search", body).json["hits"] == [
        {"key": "k5", "distance": 0, "score": 1.0, "attributes": ""}
    ]


def test_batch_returns_results_in_query_order(rest: Rest, filled: str) -> None:
    fingerprint = rest("GET", f"/v1/collections/{filled}").json["collection"]["codeSpace"]["fingerprint"]
    body = {"queries": [{"code": code(n)} for n in (7, 2)], "options": {"k": 1}, "fingerprint": fingerprint}
    results = rest("POST", f"/v1/collections/{filled}/search:batch", body).json["results"]
    assert [hits["hits"][0]["key"] for hits in results] == ["k7", "k2"]


def test_thumbnail_is_returned_with_its_media_type(rest: Rest, filled: str) -> None:
    path = f"/v1/collections/{filled}/thumbnail"
    found = rest("GET", f"{path}?key=k3")
    assert (found.status, found.body, found.headers["content-type"]) == (200, THUMBNAIL, "image/png")
    assert found.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in found.headers["content-security-policy"]
    assert rest("GET", f"{path}?key=k4").status == rest("GET", f"{path}?key=none").status == 404
    assert rest("GET", path).status == rest("GET", f"{path}?key=k3&key=k4").status == 400


def test_unchanged_thumbnail_is_not_sent_again(rest: Rest, filled: str) -> None:
    path = f"/v1/collections/{filled}/thumbnail?key=k3"
    etag = rest("GET", path).headers["etag"]
    connection = socket.create_connection(rest.address.split(":"), timeout=10)
    with connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: {etag}\r\n\r\n".encode())
        assert connection.recv(64).startswith(b"HTTP/1.1 304")


def test_records_include_thumbnails_on_request(rest: Rest, filled: str) -> None:
    path = f"/v1/collections/{filled}/records?key=k3"
    assert rest("GET", path).json["records"][0]["thumbnail"] == ""
    assert (
        base64.b64decode(rest("GET", f"{path}&includeThumbnails=true").json["records"][0]["thumbnail"])
        == THUMBNAIL
    )


SEARCH = "/v1/collections/{}/search"
RECORDS = "/v1/collections/{}/records"
NOT_OBJECTS = (b"", b"null", b"5", b"[]", b'"query"')


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "name", "text"),
    [
        ("POST", SEARCH, {"query": {"key": "k1"}}, 400, "InvalidRequest", "k: is 0; use a whole number"),
        ("POST", SEARCH, {"query": {"key": "no"}, "options": {"k": 1}}, 404, "NotFound", "no"),
        ("POST", SEARCH, {"kk": 1}, 400, "InvalidRequest", 'body: .*no field named "kk"'),
        ("POST", SEARCH, {"options": {"k": -1}}, 400, "InvalidRequest", "body: "),
        ("POST", SEARCH, {"query": {"code": "A"}}, 400, "InvalidRequest", "body: "),
        ("POST", SEARCH, b"{", 400, "InvalidRequest", "body: "),
        ("POST", SEARCH, b'"\xff"', 400, "InvalidRequest", "not valid UTF-8"),
        ("POST", SEARCH, b"[" * 100_000, 400, "InvalidRequest", "body: "),
        *(("POST", SEARCH, body, 400, "InvalidRequest", "body: not a JSON object") for body in NOT_OBJECTS),
        ("POST", SEARCH, {"collection": "other"}, 400, "InvalidRequest", "leave it out of the body"),
        (
            "POST",
            SEARCH,
            {"query": {"code": "AAAAAAAAAAA="}, "options": {"k": 1}, "fingerprint": "ab" * 32},
            409,
            "CodeSpaceMismatch",
            "encode again",
        ),
        ("POST", "/v1/collections", {"name": "a b", "bits": 64}, 400, "InvalidRequest", "'a b' is not a name"),
        ("GET", f"{RECORDS}?kay=k1", None, 400, "InvalidRequest", "kay: unknown parameter; use key"),
        ("GET", RECORDS, None, 400, "InvalidRequest", "keys: 0 in one request"),
        ("GET", f"{RECORDS}?key=k1&includeThumbnails=1", None, 400, "InvalidRequest", "use true or false"),
        (
            "GET",
            f"{RECORDS}?key=k1&consistency=all",
            None,
            400,
            "InvalidRequest",
            "unknown value 'all'; use one of .*_QUORUM",
        ),
        ("PUT", RECORDS, {"records": [{"key": ""}]}, 400, "InvalidRequest", "key: is empty"),
        ("DELETE", "/v1/collections/none", None, 404, "NotFound", "none"),
        ("DELETE", "/v1/collections/..%2F..%2Fetc", None, 400, "InvalidRequest", "is not a name"),
        ("GET", "/v1/collections/{}/nothing", None, 404, "NotFound", "/openapi.json lists"),
        ("PATCH", "/v1/collections", None, 405, "InvalidRequest", "use GET, HEAD, POST"),
    ],
)
def test_errors_have_class_status_and_remedy(
    rest: Rest, filled: str, method: str, path: str, body: object, status: int, name: str, text: str
) -> None:
    reply = rest(method, path.format(filled), body, content_type="application/json", x_request_id="mine-1")
    assert (reply.status, reply.error["code"], reply.error["requestId"]) == (status, name, "mine-1"), reply.body
    assert re.search(text, reply.error["message"]), reply.error["message"]
    assert reply.headers["x-request-id"] == "mine-1"


def test_creating_an_existing_collection_conflicts(rest: Rest, filled: str) -> None:
    reply = rest("POST", "/v1/collections", {"name": filled, "bits": 64})
    assert (reply.status, reply.error["code"], reply.error["status"]) == (409, "AlreadyExists", "ALREADY_EXISTS")


def test_non_json_content_type_is_rejected(rest: Rest, filled: str) -> None:
    """A page of another origin can make a browser send a form here, but not JSON."""
    reply = rest("PUT", RECORDS.format(filled), b"{}", content_type="text/plain")
    assert (reply.status, reply.error["code"]) == (415, "InvalidRequest")


def test_compressed_body_is_rejected(rest: Rest, filled: str) -> None:
    """It could expand to far more bytes than were admitted for it."""
    for body in (gzip.compress(b'{"query": {"key": "k1"}, "options": {"k": 1}}'), b"no gzip"):
        reply = rest("POST", SEARCH.format(filled), body, content_type="application/json", content_encoding="gzip")
        assert reply.status == 415
        assert "content-encoding: 'gzip' is not supported" in reply.error["message"]


@pytest.mark.parametrize("path", ["/healthz", "/v1/status", "/v1/collections", "/openapi.json", "/", "/cluster"])
def test_get_routes_answer_head(rest: Rest, path: str) -> None:
    read, asked = rest("GET", path), http.client.HTTPConnection(rest.address, timeout=30)
    with contextlib.closing(asked):
        asked.request("HEAD", path)
        answer = asked.getresponse()
        assert (answer.status, answer.read()) == (200, b"")
        assert answer.headers["content-type"] == read.headers["content-type"]


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"GET / HTTP/9.9\r\n\r\n", "Bad status line"),
        (b"GET / HTTP/1.1\r\n\r\n", "Missing 'Host' header"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"x" * 10_000 + b"\r\n\r\n", "more than 8190 bytes"),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer lk_KEY\r\r\n\r\n", "Missing expected LF"),
    ],
)
def test_malformed_http_gets_a_json_error_and_is_not_logged(
    rest: Rest, cluster: Cluster, sent: bytes, words: str
) -> None:
    host, _, port = rest.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as sending:
        sending.sendall(sent)
        answer = http.client.HTTPResponse(sending)
        answer.begin()
        error = json.loads(answer.read())["error"]
    assert (answer.status, answer.headers["server"]) == (400, "lookalike")
    assert error["code"] == "InvalidRequest"
    assert words in error["message"]
    log = (cluster.data / "logs" / "coordinator.log").read_text()
    assert "malformed HTTP request from" in log
    assert "lk_KEY" not in log


async def test_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.1)
    runner = connection.Runner(web.Application())
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with asyncio.timeout(20):
        reader, writer = await asyncio.open_connection(*runner.addresses[0])
        writer.write(b"GET / HT")
        assert await reader.read() == b""
    writer.close()
    await runner.cleanup()


async def test_timeout_error_names_the_header(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "grpc"))
        silent.listen()
        gateway = Gateway(f"unix:{tmp_path / 'grpc'}")
        with pytest.raises(DeadlineExceeded, match="x-timeout-ms: passed"):
            await gateway.call("ClusterStatus", ClusterStatusRequest(), Caller("id", (), 0.05))
        await gateway.close()


def test_unsafe_request_id_is_replaced(rest: Rest) -> None:
    for bad in ("", "x" * 65, "a b", "a!b", "a,b", "é"):
        replaced = rest("GET", "/v1/collections", x_request_id=bad).headers["x-request-id"]
        assert replaced.isalnum()
        assert replaced != bad


def test_the_echoed_request_id_is_the_one_that_the_server_uses(rest: Rest) -> None:
    for sent in ("a/b+c=", "job:7.1_x-y", "a!b"):
        reply = rest("GET", "/v1/collections/nowhere", x_request_id=sent)
        assert reply.headers["x-request-id"] == reply.error["requestId"]
        assert (reply.headers["x-request-id"] == sent) == ("!" not in sent)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "1.5", "99999999999"])
def test_invalid_timeout_is_rejected(rest: Rest, value: str) -> None:
    reply = rest("GET", "/v1/collections", x_timeout_ms=value)
    assert reply.status == 400
    assert "x-timeout-ms" in reply.error["message"]


@pytest.mark.parametrize(
    ("parts", "status", "text"),
    [
        ({"image": b"pixels", "options": b'{"k": 1}'}, 400, "no encoder"),
        ({"options": b'{"k": 1}'}, 400, "image: missing"),
        ({"image": b"pixels", "options": b'{"kk": 1}'}, 400, "options: "),
        ({"image": b"pixels", "other": b""}, 400, "'other' is unknown"),
        ({"image": bytes(33 * 2**20)}, 413, "image: larger than 32 MiB"),
        ({"image": b"pixels", "options": bytes(2**25 + 1)}, 413, "options: larger than 32 MiB"),
    ],
)
def test_invalid_search_forms_are_rejected(
    rest: Rest, filled: str, parts: dict[str, bytes], status: int, text: str
) -> None:
    body, media_type = form(**parts)
    reply = rest("POST", SEARCH.format(filled), body, content_type=media_type)
    assert reply.status == status
    assert text in reply.error["message"]


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        ("multipart/form-data", b"garbage"),
        ("multipart/form-data; boundary=x", b"garbage"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A: b\r\n" * 3_000 + b"\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\n" + b"A" * 100_000),
        (
            "multipart/form-data; boundary=x",
            b"--x\r\nContent-Disposition: form-data; name=_charset_\r\n\r\n" + b"x" * 40 + b"\r\n--x--",
        ),
    ],
)
def test_malformed_form_is_rejected(rest: Rest, filled: str, media_type: str, body: bytes) -> None:
    reply = rest("POST", SEARCH.format(filled), body, content_type=media_type)
    assert reply.status == 400
    assert "invalid multipart/form-data" in reply.error["message"]


@contextlib.contextmanager
def incomplete_request(rest: Rest, path: str, length: int) -> Iterator[socket.socket]:
    """Sends the headers of a request without its body."""
    host, _, port = rest.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        lines = (
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            "Content-Type: application/json",
            f"Content-Length: {length}",
        )
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        yield connection


def test_body_over_the_limit_is_rejected_from_its_headers(rest: Rest, filled: str) -> None:
    with incomplete_request(rest, SEARCH.format(filled), MAX_MESSAGE_BYTES + 1) as connection:
        assert connection.recv(64).startswith(b"HTTP/1.1 413")


def test_bodies_in_flight_are_bounded_and_excess_gets_retry_after(rest: Rest, filled: str) -> None:
    path = SEARCH.format(filled)
    with contextlib.ExitStack() as stack:
        for _ in range(7):
            stack.enter_context(incomplete_request(rest, path, MAX_MESSAGE_BYTES))
        refused = stack.enter_context(incomplete_request(rest, path, MAX_MESSAGE_BYTES))
        answer = refused.recv(4_096).decode()
        assert answer.startswith("HTTP/1.1 429")
        assert "\r\nRetry-After: 1\r\n" in answer
        assert rest("POST", path, {"query": {"key": "k1"}, "options": {"k": 1}}).status == 200


def test_concurrent_requests_are_all_answered(rest: Rest, filled: str) -> None:
    replies: list[int] = []

    def ask() -> None:
        body = {"query": {"key": "k1"}, "options": {"k": 3}}
        replies.append(rest("POST", SEARCH.format(filled), body).status)

    threads = [threading.Thread(target=ask) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert replies == [200] * 40


def test_status_format_is_stable(rest: Rest, cluster: Cluster) -> None:
    status = rest("GET", "/v1/status").json
    assert status["cluster"] == cluster.config.cluster
    assert [partition["replicas"][0]["state"] for partition in status["partitions"]] == ["serving"] * 3
    none = {"address": "", "state": "none", "reason": "", "code_space": None, "name": "default"}
    assert (status["encoder"], status["encoders"]) == (none, [])
    assert rest("GET", "/healthz").body == b"ok\n"


@pytest.mark.parametrize("host", ["rebound.example", "rebound.example:7780", "127.0.0.1.example", "10.0.0.1", ""])
def test_foreign_host_name_is_rejected_without_keys(rest: Rest, host: str) -> None:
    """DNS rebinding: the browser believes that it sends the request to the page's own host."""
    reply = rest("GET", "/v1/collections", host=host)
    assert (reply.status, reply.error["code"]) == (403, "PermissionDenied")


@pytest.mark.parametrize("host", ["localhost:7780", "127.0.0.1:1", "[::1]:7780", "LocalHost"])
def test_loopback_host_names_are_accepted(rest: Rest, host: str) -> None:
    assert rest("GET", "/v1/collections", host=host).status == 200


def test_records_can_be_counted_listed_and_changed(rest: Rest, filled: str) -> None:
    path = f"/v1/collections/{filled}/records"
    large = {"range": {"field": "number", "gte": 6}}
    found = rest("POST", f"{path}/count", {"filter": large}).json
    assert (found["count"], found["coverage"]["answered"]) == ("4", 3)
    assert rest("POST", f"{path}/exists", {"keys": ["k1", "nobody"]}).json == {"exists": [True, False]}
    page = rest("POST", f"{path}/scroll", {"limit": 7, "includeAttributes": True}).json
    rest_of_it = rest("POST", f"{path}/scroll", {"cursor": page["cursor"], "includeCodes": True}).json
    assert rest_of_it["cursor"] == ""
    keys = [record["key"] for record in (*page["records"], *rest_of_it["records"])]
    assert sorted(keys) == [f"k{number}" for number in range(10)]
    assert json.loads(page["records"][0]["attributes"]) == {"number": int(page["records"][0]["key"][1:])}
    assert rest_of_it["records"][0]["code"] == code(int(rest_of_it["records"][0]["key"][1:]))
    facets = rest("POST", f"{path}/facets", {"attribute": "number", "limit": 1, "filter": large}).json
    assert facets["facets"] == [{"value": {"integer": "6"}, "count": "1"}]
    assert (facets["otherValues"], facets["otherCount"]) == ("3", "3")
    change = {"filter": large, "attributes": '{"seen": true}', "remove": ["number"]}
    assert rest("POST", f"{path}/set-attributes", change).json == {
        "changed": "4", "cursor": "", "warnings": [],
    }  # fmt: skip
    (record,) = rest("GET", f"{path}?key=k9").json["records"]
    assert record["attributes"] == '{"seen":true}'
    doomed = {"filter": {"exists": {"field": "seen"}}}
    assert rest("POST", f"{path}/delete", doomed).json == {"deleted": "4", "cursor": "", "warnings": []}
    assert rest("POST", f"{path}/count", {}).json["count"] == "6"
    assert rest("POST", f"{path}/delete", {}).error["message"].startswith("filter: is missing")
    assert rest("POST", f"{path}/scroll", {"cursor": "x"}).status == 400
