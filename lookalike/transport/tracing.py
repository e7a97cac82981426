"""Owns spans: OpenTelemetry where a program uses it, nothing where it does not.

A program that has set a tracer provider is traced: a server sets it by `lookalike.server.observe.exporter`, a
client's program by itself. Nothing here imports OpenTelemetry before that, so without it a span costs one
dictionary lookup. Its context travels as W3C `traceparent` in gRPC metadata.

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

# Of the requests that share this work, where there is no span of its own yet.
_sharing: ContextVar[tuple[Any, ...]] = ContextVar("sharing", default=())


def current() -> Any:
    """The context of the span that this work is a part of; None if there is none."""
    if (trace := _tracing()) is None:
        return None
    context = trace.get_current_span().get_span_context()
    return context if context.is_valid else None


def trace_id() -> str | None:
    """As 32 hexadecimal digits; None outside of a trace."""
    context = current()
    if context is None:
        context = next(iter(_sharing.get()), None)
    return None if context is None else f"{context.trace_id:032x}"


def share(spans: Sequence[Any]) -> None:
    """The work of this context is for those who wait in these spans."""
    # One that is not sampled would keep the work from being so.
    _sharing.set(tuple(sorted(spans, key=lambda span: not span.trace_flags.sampled)))


def span(
    name: str, *, is_call: bool = False, **attributes: str | int | bool
) -> contextlib.AbstractContextManager[Any]:
    """A part of a request's work, with the block as its time; is_call: it is a call to another process. Gives the
    span, or None where nothing is traced: what nobody asked for, such as polls, is not."""
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
        record_exception=False,  # its text may hold what a client wrote
    )
    return made


@contextlib.contextmanager
def calling(method: str) -> Iterator[Metadata | None]:
    """A client's call with the block as its time, retries included. Yields what to send along."""
    if (trace := _tracing()) is None:
        yield None
        return
    made = _tracer(trace.get_tracer_provider()).start_span(
        f"lookalike.Client/{method}", kind=trace.SpanKind.CLIENT
    )
    try:
        # Not made the current span: that of a stream would stay so in the caller's code.
        yield _headers(trace.set_span_in_context(made))
    except Exception as error:
        made.set_status(trace.Status(trace.StatusCode.ERROR, type(error).__name__))
        raise
    finally:
        made.end()


def headers() -> Metadata:
    """What to send along with a call of this work."""
    return () if current() is None else _headers(None)


class Served:
    """The span of a call that this process answers. It is the current one until the task of the call ends."""

    def __init__(self, method: str, traceparent: str | None, is_public: bool) -> None:
        """is_public: a call that came without a trace may begin one."""
        self._span = None
        if (trace := _tracing()) is None or not (traceparent or is_public):
            return
        from opentelemetry import context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {TRACEPARENT: traceparent} if traceparent else {}
        parent = TraceContextTextMapPropagator().extract(carrier)
        service, _, name = method.removeprefix("/").partition("/")
        self._span = _tracer(trace.get_tracer_provider()).start_span(
            f"{service.rpartition('.')[2]}/{name}",
            parent,
            trace.SpanKind.SERVER,
            {"rpc.system": "grpc", "rpc.service": service, "rpc.method": name},
        )
        context.attach(trace.set_span_in_context(self._span))

    def ended(self, code: str, number: int, is_fault: bool, **attributes: str | int) -> None:
        """code: the status's name. is_fault: the server's own."""
        if self._span is None:
            return
        self._span.set_attributes({"rpc.grpc.status_code": number, **attributes})
        if is_fault:
            trace = _tracing()
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, code))
        self._span.end()


def _tracing() -> Any:
    """OpenTelemetry's trace module, if this program has set it up; else None."""
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
