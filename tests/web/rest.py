"""Owns a plain HTTP client of the web port. It validates every response against the OpenAPI document."""

from __future__ import annotations

import dataclasses
import http.client
import json
import re
import urllib.parse
from typing import Any

import jsonschema

from coordinator.web.openapi import document
from lookalike.server.config import LimitsConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        return error


class Rest:
    """Sends requests to a coordinator's web port."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._document = document(LimitsConfig())

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Sends a request. body: bytes, or an object to send as JSON. headers: _ stands for -."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            sent.setdefault("content-type", "application/json")
        connection = http.client.HTTPConnection(self.address, timeout=30)
        try:
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            names = {name.lower(): value for name, value in answer.getheaders()}
            reply = Reply(answer.status, names, answer.read())
        finally:
            connection.close()
        self._check(method, path, reply)
        return reply

    def _check(self, method: str, path: str, reply: Reply) -> None:
        operation = self._operation(method, urllib.parse.urlsplit(path).path)
        if operation is None:
            return
        described = operation["responses"][str(reply.status)]
        if "$ref" in described:
            described = self._document["components"]["responses"][described["$ref"].rpartition("/")[2]]
        media_type = reply.headers["content-type"].partition(";")[0]
        schema = described["content"][media_type].get("schema", {})
        whole = {**schema, "components": self._document["components"]}
        instance = reply.json if media_type == "application/json" else reply.body.decode(errors="replace")
        jsonschema.Draft202012Validator(whole).validate(instance)

    def fits(self, method: str, path: str, body: Any) -> bool:
        """Whether a JSON body fits the document's schema."""
        operation = self._operation(method, path)
        assert operation is not None, (method, path)
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        return self._is_valid(schema, body)

    def fits_component(self, name: str, value: Any) -> bool:
        """Whether a value fits a schema among the document's components."""
        return self._is_valid({"$ref": f"#/components/schemas/{name}"}, value)

    def _is_valid(self, schema: dict[str, Any], value: Any) -> bool:
        whole = {**schema, "components": self._document["components"]}
        return bool(jsonschema.Draft202012Validator(whole).is_valid(value))

    def _operation(self, method: str, path: str) -> dict[str, Any] | None:
        for template, operations in self._document["paths"].items():
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template))
            if re.fullmatch(pattern, path):
                found: dict[str, Any] | None = operations.get(method.lower())
                return found
        return None


def form(**parts: bytes) -> tuple[bytes, str]:
    """Builds a multipart/form-data body; returns it with its content type."""
    lines = [
        b'--edge\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n' % (name.encode(), data)
        for name, data in parts.items()
    ]
    return b"".join([*lines, b"--edge--\r\n"]), "multipart/form-data; boundary=edge"
