"""Owns a batch job's metrics: the account that it keeps anyway, read when Prometheus asks."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

from encoder.ingest.stats import Summary
from lookalike.model.errors import CannotStart


@contextlib.contextmanager
def serving(address: str | None, summary: Summary) -> Iterator[None]:
    """Serve the account at http://ADDRESS/metrics while the block lasts. Raises CannotStart."""
    if address is None:
        yield
        return
    from prometheus_client import CollectorRegistry, start_http_server
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.registry import Collector

    started = time.monotonic()

    class Account(Collector):
        def collect(self) -> Iterator[Metric]:
            records = CounterMetricFamily(
                "lookalike_ingest_records", "Records of this job by what became of them.", labels=["outcome"]
            )
            for outcome, count in summary.outcomes().items():
                records.add_metric([outcome], count)
            yield records
            yield CounterMetricFamily(
                "lookalike_ingest_bytes", "Bytes of the images and codes that were read.", value=summary.bytes
            )
            yield GaugeMetricFamily(
                "lookalike_ingest_seconds", "How long this job runs.", value=time.monotonic() - started
            )

    registry = CollectorRegistry()
    registry.register(Account())
    host, _, port = address.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host.strip("[]") or "127.0.0.1", registry)
    except (OSError, ValueError, OverflowError) as error:
        raise CannotStart(f"metrics: {address!r} cannot be listened on ({error}); use HOST:PORT") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
