"""Owns a receiver of spans (OTLP over gRPC), and how a test reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps every span that it receives, with the service that sent it. address: the value for the config's
    tracing.otlp."""

    def __init__(self) -> None:
        self.address = ""
        self.spans: list[tuple[str, Span]] = []

    def Export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        for resource in request.resource_spans:
            service = next(
                item.value.string_value for item in resource.resource.attributes if item.key == "service.name"
            )
            for scope in resource.scope_spans:
                self.spans += [(service, span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, service: str, name: str) -> list[Span]:
        return [span for one, span in list(self.spans) if one == service and span.name == name]

    def path_to_root(self, span: Span) -> list[str]:
        """The names of a span and of its ancestors, up to the root of the trace."""
        by_id = {one.span_id: one for _, one in list(self.spans)}
        names = []
        found: Span | None = span
        while found is not None:
            names.append(found.name)
            found = by_id.get(found.parent_span_id)
        return names


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    server = grpc.server(ThreadPoolExecutor(4))
    collector = Collector()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.address = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield collector
    server.stop(1).wait()
