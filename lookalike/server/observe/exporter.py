"""Owns the export of a server process's spans to an OpenTelemetry collector."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from lookalike.model.errors import CannotStart
from lookalike.server.config import TracingConfig

_EXPORT_MS = 1_000


def start(config: TracingConfig, resource: dict[str, str]) -> Any:
    """Starts to send this process's spans to the configured endpoint.

    Returns:
        The tracer provider, whose `shutdown` the caller calls at the end; None if no endpoint is configured.

    Raises:
        CannotStart: If the endpoint is invalid or OpenTelemetry is not installed.
    """
    if config.otlp is None:
        return None
    if urlsplit(config.otlp).scheme not in ("http", "https") or not urlsplit(config.otlp).hostname:
        raise CannotStart(f"tracing.otlp: {config.otlp!r} is not a URL such as http://collector:4317")
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"tracing.otlp: needs {error.name}; run pip install '.[tracing]' in the checkout"
        ) from None
    provider = TracerProvider(ParentBased(TraceIdRatioBased(config.sample)), Resource.create(resource))
    exporter = OTLPSpanExporter(config.otlp)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_MS))
    trace.set_tracer_provider(provider)
    return provider
