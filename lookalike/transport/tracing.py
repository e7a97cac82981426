"""Owns spans: OpenTelemetry's if the program uses it, otherwise none.

A program with a tracer provider is traced: a server sets one in `lookalike.server.observe.exporter`, a client's
program sets its own. Nothing here imports OpenTelemetry before that, so without it a span costs one dictionary
lookup. The context travels as W3C `traceparent` in gRPC metadata.

Work that several requests share belongs to the first request's trace and links to the spans of all others."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from typing import Any

TRACEPARENT = "traceparent"
Metadata = tuple[tuple[str, str], ...]
_NOTHING = contextlib.nullcontext()

# The spans of the requests that share this work. Used only while the work has no span of its own.
_sharing: ContextVar[tuple[Any, ...]] = ContextVar("sharing", default=())


def current() -> Any:
    """The context of the current span; None outside of a span."""
    if (trace := _tracing()) is None:
        return None
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def trace_id() -> str | None:
    """The trace id as 32 hexadecimal digits; None outside of a trace."""
    context = current()
    if context is None:
        context = next(iter(_sharing.get()), None)
    return None if context is None else f"{context.trace_id:032x}"


def share(spans: Sequence[Any]) -> None:
    """Records that these spans wait for the work of the current context."""
    # The first becomes the parent. Sampled spans come first, because an unsampled parent would prevent sampling.
    _sharing.set(tuple(sorted(spans, key=lambda span: not span.trace_flags.sampled)))


def span(
    name: str, *, is_call: bool = False, **attributes: str | int | bool
) -> contextlib.AbstractContextManager[Any]:
    """A span around the block, as a part of a request's work.

    Args:
        name: The span's name.
        is_call: Whether it is a call to another process.
        attributes: The span's attributes.

    Yields:
        The span; None without tracing, and for work outside of a request, such as polls.
    """
    if (trace := _tracing()) is None:
        return _NOTHING
    parent, links = None, []
    if not trace.get_current_span().get_span_context().is_valid:
        first, *others = _sharing.get() or (None,)
        if first is None:
            return _NOTHING
        parent = trace.set_span_in_context(trace.NonRecordingSpan(first))
        links = [trace.Link(other) for other in others]
    made: contextlib.AbstractContextManager[Any] = _tracer(trace.get_tracer_provider()).start_as_current_span(
        name,
        parent,
        trace.SpanKind.CLIENT if is_call else trace.SpanKind.INTERNAL,
        attributes,
        links,
        record_exception=False,  # its text may quote what a client sent
    )
    return made


@contextlib.contextmanager
def calling(method: str) -> Iterator[Metadata | None]:
    """A span around a client's call, retries included. Yields the metadata to send."""
    if (trace := _tracing()) is None:
        yield None
        return
    made = _tracer(trace.get_tracer_provider()).start_span(
        f"lookalike.Client/{method}", kind=trace.SpanKind.CLIENT
    )
    try:
        # Not the current span: a stream's span would stay current in the caller's code.
        yield _headers(trace.set_span_in_context(made))
    except Exception as error:
        made.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        made.end()


def headers() -> Metadata:
    """The trace context as metadata."""
    return () if current() is None else _headers(None)


def served(method: str, traceparent: str | None, is_public: bool) -> Served | None:
    """Starts the span of a call that this process answers; returns None without tracing.

    Args:
        method: "/PACKAGE.SERVICE/METHOD".
        traceparent: The caller's trace.
        is_public: Whether a call without a trace starts one.
    """
    if (trace := _tracing()) is None or not (traceparent or is_public):
        return None
    return Served(trace, method, traceparent)


class Served:
    """The span of a call that this process answers. It stays the current span until the call's task ends."""

    def __init__(self, trace: Any, method: str, traceparent: str | None) -> None:
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {TRACEPARENT: traceparent} if traceparent else {}
        parent = TraceContextTextMapPropagator().extract(carrier)
        service, _, name = method.removeprefix("/").partition("/")
        self._trace = trace
        self._span = _tracer(trace.get_tracer_provider()).start_span(
            f"{service.rpartition('.')[2]}/{name}",
            parent,
            trace.SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        context.attach(trace.set_span_in_context(self._span))

    def ended(self, code: str, number: int, is_fault: bool, **attributes: str | int) -> None:
        """Ends the span. code, number: of the gRPC status. is_fault: whether the server is at fault."""
        self._span.set_attributes({"rpc.grpc.status_code": number, **attributes})
        if is_fault:
            self._span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, code))
        self._span.end()


def _tracing() -> Any:
    """OpenTelemetry's trace module, if the program has set a tracer provider; else None."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return trace


@functools.cache
def _tracer(provider: Any) -> Any:
    return provider.get_tracer("lookalike", version("lookalike"))


def _headers(context: Any) -> Metadata:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, context)
    return tuple(carrier.items())
