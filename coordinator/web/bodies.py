"""Owns request parsing: turns an HTTP request's path, query string and body (JSON or multipart/form-data) into an
RPC's request message, within limits on size and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
from aiohttp import BodyPartReader, web
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from coordinator.web.filter_bodies import parse_message
from coordinator.web.gateway import request_class
from coordinator.web.responses import TooLarge, UnsupportedMediaType
from coordinator.web.routes import Call
from lookalike.model.errors import DeadlineExceeded, InvalidRequest
from lookalike.server.admission import Admission
from lookalike.transport.rpc import MAX_IMAGE_BYTES, MAX_MESSAGE_BYTES

READ_SECONDS = 60.0
# What a message of the maximum size has room for next to an image: filters and keys to exclude can be long.
MAX_OPTIONS_BYTES = MAX_MESSAGE_BYTES - MAX_IMAGE_BYTES
# The parts of a form that are JSON.
FORM_JSON = ("options", "box", "examples")
_FORM_PARTS = "image, options, box and examples"
# The options of a form that has an image and no options.
DEFAULT_OPTIONS = b'{"k": 10}'
# Larger messages take about a millisecond or more to convert, so a thread converts them.
LARGE_BYTES = 32 * 1024
_BOOLEANS = {"true": True, "false": False}
# What aiohttp raises for a malformed form.
_FORM_ERRORS = (
    ValueError,
    RuntimeError,
    AssertionError,
    aiohttp.ClientError,
    aiohttp.http_exceptions.HttpProcessingError,
)


class BodyReader:
    """Parses HTTP requests into messages. Bounds the bytes of all bodies being read at one time."""

    def __init__(self, max_image_bytes: int, max_request_bytes: int) -> None:
        self._max_image_bytes = max_image_bytes
        self._admission = Admission(max_request_bytes)

    async def message(self, call: Call, request: web.Request) -> Message:
        """Returns the RPC's request message.

        Raises:
            InvalidRequest: If the request is malformed.
            Overloaded: If the bodies in flight leave no room for this one.
            DeadlineExceeded: If the body does not arrive within READ_SECONDS.
        """
        message = request_class(call.rpc)()
        if call.takes_body:
            _check_encoding(request)
            async with self._admitted(request):
                if call.takes_image and request.content_type == "multipart/form-data":
                    await self._read_form(request, message)
                else:
                    await _read_json(request, message)
        _fill_from_query(message, call, request)
        if call.in_path:
            _fill_from_path(message, call.in_path, request.match_info["name"])
        return message

    @contextlib.asynccontextmanager
    async def _admitted(self, request: web.Request) -> AsyncIterator[None]:
        length = request.content_length
        if length is not None and length > MAX_MESSAGE_BYTES:
            raise _body_too_large()
        try:
            with self._admission.admit(MAX_MESSAGE_BYTES if length is None else length):
                async with asyncio.timeout(READ_SECONDS):
                    yield
        except TimeoutError:
            raise DeadlineExceeded(f"body: did not arrive within {READ_SECONDS:.0f} s; send it faster") from None

    async def _read_form(self, request: web.Request, message: Any) -> None:
        """Reads multipart/form-data with the file `image` and, as JSON, `box`, `examples` and `options`."""
        limits = dict.fromkeys(FORM_JSON, MAX_OPTIONS_BYTES) | {"image": self._max_image_bytes}
        parts: dict[str, bytes] = {}
        try:
            async for part in await request.multipart():
                name = part.name if isinstance(part, BodyPartReader) else None
                if not isinstance(part, BodyPartReader) or name not in limits or name in parts:
                    raise InvalidRequest(f"form: part {name!r} is unknown or duplicate; send {_FORM_PARTS}")
                parts[name] = await _read_part(part, name, limits[name])
        except _FORM_ERRORS as error:
            raise InvalidRequest(
                f"form: invalid multipart/form-data ({_one_line(error)}); see /openapi.json"
            ) from None
        if "image" not in parts:
            raise InvalidRequest("image: missing; send a file, such as -F image=@cat.jpg")
        await _parse_in_thread_if_large(parts.get("options", DEFAULT_OPTIONS), message.options, "options")
        await _fill_query(message.query, parts)


async def _fill_query(query: Any, parts: Mapping[str, bytes]) -> None:
    """Sets the query of a form. With further examples, the image is the first example."""
    if "examples" not in parts:
        own = query
    else:
        further = type(query.examples)()
        await _parse_in_thread_if_large(parts["examples"], further, "examples")
        own = query.examples.like.add()
        query.examples.MergeFrom(further)
    own.image = parts["image"]
    if "box" in parts:
        own.box.SetInParent()
        _parse(parts["box"], own.box, "box")


def _check_encoding(request: web.Request) -> None:
    """Rejects compressed bodies: one can expand to a thousand times the bytes that were admitted for it."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(
            f"content-encoding: {encoding[:40]!r} is not supported; send the body uncompressed"
        )


async def _read_part(part: BodyPartReader, name: str, limit: int) -> bytes:
    data = bytearray()
    while chunk := await part.read_chunk(256 * 1024):
        data += chunk
        if len(data) > limit:
            raise TooLarge(f"{name}: larger than {limit / 2**20:g} MiB; send a smaller one")
    return bytes(data)


async def _read_json(request: web.Request, message: Message) -> None:
    if request.content_type != "application/json":
        raise UnsupportedMediaType(
            f"content-type: {request.content_type!r} is not supported; send JSON with"
            " -H 'content-type: application/json'"
        )
    try:
        body = await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise _body_too_large() from None
    await _parse_in_thread_if_large(body, message, "body")


async def _parse_in_thread_if_large(body: bytes, message: Message, field: str) -> None:
    if len(body) > LARGE_BYTES:
        await asyncio.to_thread(_parse, body, message, field)
    else:
        _parse(body, message, field)


def _parse(body: bytes, message: Message, field: str) -> None:
    """Parses a JSON body in UTF-8 into the message. Raises InvalidRequest."""
    try:
        text = body.decode()
        if not text.lstrip().startswith("{"):
            raise InvalidRequest(f"{field}: not a JSON object; see /openapi.json")
        parse_message(text, message)
    except json_format.ParseError as error:
        raise InvalidRequest(f"{field}: {_one_line(error)}; see /openapi.json") from None
    except UnicodeError:
        raise InvalidRequest(f"{field}: not valid UTF-8; send JSON text") from None
    except RecursionError:
        raise InvalidRequest(f"{field}: nested too deeply; use fewer levels") from None


def _fill_from_query(message: Any, call: Call, request: web.Request) -> None:
    for name in request.query:
        if name not in call.query:
            known = f"use {', '.join(call.query)}" if call.query else "this path has none"
            raise InvalidRequest(f"{name[:40]}: unknown parameter; {known}")
    for name, field_name in call.query.items():
        texts = request.query.getall(name, [])
        field = message.DESCRIPTOR.fields_by_name[field_name]
        if field.is_repeated and field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            getattr(message, field_name).extend(texts)
        elif field.is_repeated:
            _fill(message, field, name, texts)
        elif len(texts) > 1:
            raise InvalidRequest(f"{name}: given {len(texts)} times; give it once")
        elif texts:
            _fill_scalar(message, field, name, texts[0])


def _fill_scalar(message: Message, field: FieldDescriptor, name: str, text: str) -> None:
    value: str | bool = text
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if text not in _BOOLEANS:
            raise InvalidRequest(f"{name}: invalid value {text[:40]!r}; use true or false")
        value = _BOOLEANS[text]
    _fill(message, field, name, value)


def _fill(message: Message, field: FieldDescriptor, name: str, value: str | bool | list[str]) -> None:
    try:
        json_format.ParseDict({field.json_name: value}, message)
    except json_format.ParseError as error:
        if field.enum_type is not None:
            known = ", ".join(field.enum_type.values_by_name)
            raise InvalidRequest(f"{name}: unknown value {str(value)[:40]!r}; use one of {known}") from None
        raise InvalidRequest(f"{name}: {_one_line(error)}; see /openapi.json") from None


def _fill_from_path(message: Message, field: str, value: str) -> None:
    given = getattr(message, field)
    if given not in ("", value):
        raise InvalidRequest(
            f"{field}: {given[:140]!r} in the body differs from the path; leave it out of the body"
        )
    setattr(message, field, value)


def _body_too_large() -> TooLarge:
    return TooLarge(f"body: larger than {MAX_MESSAGE_BYTES // 2**20} MiB; send less per request")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")[:600]
