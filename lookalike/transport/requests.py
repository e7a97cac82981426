"""Owns request ids. They travel in gRPC metadata from process to process, so all processes log a request under the
same id.

Work that several requests share, such as one RPC to a shard or one scan, carries the ids of all these requests, up
to MAX_IDS."""

from __future__ import annotations

import contextvars
import dataclasses
import os
import re
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from lookalike.transport import tracing

REQUEST_ID_KEY = "request-id"
MAX_IDS = 32
# What an id that a caller sends may look like; a regular expression for both Python and JSON Schema.
ID_PATTERN = "[A-Za-z0-9._:+/=-]{1,64}"
_ID = re.compile(ID_PATTERN)


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The request or requests that the current work serves. rpc: the method by which the first of them
    arrived."""

    ids: tuple[str, ...]
    rpc: str

    @property
    def id(self) -> str:
        return ",".join(self.ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a piece of work comes from: its request, and the context of the tracing span that waits for the work.
    Either may be None."""

    request: Request | None
    span: Any


_current: ContextVar[Request | None] = ContextVar("request", default=None)


def current() -> Request | None:
    return _current.get()


def id_or_new(sent: str) -> str:
    """Returns a caller's id, or a new one if it is not a valid id."""
    return sent if _ID.fullmatch(sent) else _new_id()


def begin(rpc: str, sent_id: str | None) -> Request:
    """Assigns the current task to a new request.

    Args:
        rpc: The method's name.
        sent_id: The id from the caller's metadata. If it is missing or invalid, a new id is drawn.
    """
    ids = tuple(part for part in (sent_id or "").split(",")[:MAX_IDS] if _ID.fullmatch(part))
    request = Request(ids or (_new_id(),), rpc)
    _current.set(request)
    return request


def origin() -> Origin:
    return Origin(_current.get(), tracing.current())


def together(origins: Sequence[Origin]) -> contextvars.Context:
    """Returns a context for work that all these origins share."""
    context = contextvars.Context()
    if len(origins) == 1 and origins[0].span is None:
        context.run(_current.set, origins[0].request)
        return context
    requests = list(dict.fromkeys(one.request for one in origins if one.request is not None))
    if requests:
        ids = dict.fromkeys(id for request in requests for id in request.ids)
        context.run(_current.set, Request(tuple(ids)[:MAX_IDS], requests[0].rpc))
    spans = {one.span.span_id: one.span for one in origins if one.span is not None}
    if spans:
        context.run(tracing.share, list(spans.values()))
    return context


def _new_id() -> str:
    return os.urandom(8).hex()


def metadata() -> tracing.Metadata:
    """Returns the metadata for a call to another process: the request ids and the trace context."""
    request = _current.get()
    ids = () if request is None else ((REQUEST_ID_KEY, request.id),)
    return (*ids, *tracing.headers())
