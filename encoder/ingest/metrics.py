"""Owns a batch job's Prometheus metrics: its counts, read at each scrape."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from encoder.ingest.stats import Summary
from lookalike.model.errors import CannotStart


@contextlib.contextmanager
def serving(address: str | None, summary: Summary) -> Iterator[None]:
    """Serves the counts at http://ADDRESS/metrics while the block runs; serves nothing if the address is None.
    Raises CannotStart when the address cannot be bound."""
    if address is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    started = time.monotonic()

    class SummaryCollector(Collector):
        def collect(self) -> Iterator[Metric]:
            records = CounterMetricFamily(
                "lookalike_ingest_records", "Records of this job by outcome.", labels=["outcome"]
            )
            for outcome, count in summary.outcomes().items():
                records.add_metric([outcome], count)
            yield records
            yield CounterMetricFamily(
                "lookalike_ingest_bytes", "Bytes of images and codes read.", value=summary.bytes
            )
            yield GaugeMetricFamily(
                "lookalike_ingest_seconds", "Seconds since the job started.", value=time.monotonic() - started
            )

    registry = CollectorRegistry()
    registry.register(SummaryCollector())
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except (OSError, ValueError, OverflowError) as error:
        raise CannotStart(f"metrics: cannot listen on {address!r} ({error}); use HOST:PORT") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
