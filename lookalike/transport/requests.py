"""Owns request ids. They travel in gRPC metadata from process to process, so the logs of all of them have the same
id.

Work that requests share, as one RPC to a shard or one scan, carries the ids of all of them, up to MAX_IDS."""

from __future__ import annotations

import contextvars
import dataclasses
import re
import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

from lookalike.transport import tracing

REQUEST_ID_KEY = "request-id"
MAX_IDS = 32
_ID = re.compile(r"[A-Za-z0-9._:+/=-]{1,64}")


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """The request or requests that the current work serves. rpc: the method by which it arrived."""

    ids: tuple[str, ...]
    rpc: str

    @property
    def id(self) -> str:
        return ",".join(self.ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """The request of a piece of work, and the context of the span that waits for it, if any."""

    request: Request | None
    span: Any


_current: ContextVar[Request | None] = ContextVar("request", default=None)


def current() -> Request | None:
    return _current.get()


def begin(rpc: str, sent_id: str | None) -> Request:
    """Assigns the current task to a new request.

    Args:
        rpc: The method's name.
        sent_id: The id from the caller's metadata. A new one replaces it if it is missing or invalid.
    """
    ids = tuple(part for part in (sent_id or "").split(",")[:MAX_IDS] if _ID.fullmatch(part))
    request = Request(ids or (uuid.uuid4().hex[:16],), rpc)
    _current.set(request)
    return request


def origin() -> Origin:
    return Origin(_current.get(), tracing.current())


def together(origins: Sequence[Origin]) -> contextvars.Context:
    """A context for work that all of these share."""
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


def metadata() -> tracing.Metadata:
    """The metadata of a call to another process: the request ids and the trace context."""
    request = _current.get()
    ids = () if request is None else ((REQUEST_ID_KEY, request.id),)
    return (*ids, *tracing.headers())
