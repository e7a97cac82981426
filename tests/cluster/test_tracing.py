"""Spans as a collector receives them: one trace from the client through the coordinator to every shard, and
links between traces whose queries share a scan."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lookalike import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.server.config import TracingConfig
from tests.cluster.scraping import running
from tests.conftest import Cluster, wait_until
from tests.spans import Collector, collecting

# A program that traces. It runs in its own process, because a tracer provider is global.
PROGRAM = """
import asyncio, sys
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from lookalike import AsyncClient, Client, Record

collector, server, what = sys.argv[1:]
provider = TracerProvider(resource=Resource.create({"service.name": "program"}))
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(collector, insecure=True)))
trace.set_tracer_provider(provider)

async def together(searches):
    async with AsyncClient(server) as client:
        await client.get_collection("c")
        await asyncio.gather(*(client.search(code=bytes([i % 256] * 8), collection="c") for i in range(searches)))

if not what.isdigit():
    with Client(server) as client:
        client.upsert([Record("a", image=what)], collection="traced")
        client.search(image=what, collection="traced")
elif what == "1":
    with Client(server) as client:
        client.search(code=bytes(8), collection="c")
else:
    asyncio.run(together(int(what)))
provider.shutdown()
"""


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as collected:
        yield collected


@pytest.fixture(scope="module")
def traced(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    data = tmp_path_factory.mktemp("traced")
    config = ephemeral_config(data, partitions=2)
    with running(config.model_copy(update={"tracing": TracingConfig(otlp=collector.address)}), data) as cluster:
        with cluster.client() as client:
            client.create_collection("c", bits=64)
        yield cluster


def run_program(cluster: Cluster, collector: Collector, what: int | Path) -> None:
    command = [sys.executable, "-c", PROGRAM, collector.address, cluster.address, str(what)]
    subprocess.run(command, check=True)


def test_one_trace_spans_client_coordinator_and_shards(traced: Cluster, collector: Collector) -> None:
    collector.spans.clear()
    run_program(traced, collector, 1)
    wait_until(lambda: len(collector.named("lookalike-shard", "scan")) == 2, 20)
    wait_until(lambda: bool(collector.named("lookalike-coordinator", "SearchService/Search")), 20)
    (call,) = collector.named("program", "lookalike.Client/Search")
    mine = [(service, span) for service, span in collector.spans if span.trace_id == call.trace_id]
    scans = [span for service, span in mine if (service, span.name) == ("lookalike-shard", "scan")]
    assert [collector.path_to_root(scan) for scan in scans] == 2 * [
        [
            "scan", "ShardService/Scan", "ShardService/Scan", "round", "fan-out", "SearchService/Search",
            "lookalike.Client/Search",
        ]
    ]  # fmt: skip
    calls = [
        span for service, span in mine if (service, span.name) == ("lookalike-coordinator", "ShardService/Scan")
    ]
    asked = {item.value.int_value for span in calls for item in span.attributes if item.key == "partition"}
    assert asked == {0, 1}
    (merge,) = [span for _, span in mine if span.name == "merge"]
    assert collector.path_to_root(merge)[1:3] == ["fan-out", "SearchService/Search"]


def test_coalesced_searches_link_to_their_shared_span(traced: Cluster, collector: Collector) -> None:
    collector.spans.clear()
    searches = 60
    run_program(traced, collector, searches)
    wait_until(lambda: len(collector.named("lookalike-coordinator", "fan-out")) == searches, 20)
    rounds = collector.named("lookalike-coordinator", "round")
    wait_until(lambda: len(collector.named("lookalike-coordinator", "round")) == len(rounds), 5)
    assert len(rounds) < searches
    fan_outs = {span.span_id: span for span in collector.named("lookalike-coordinator", "fan-out")}
    served = 0
    for one in rounds:
        waited = [fan_outs[id] for id in (one.parent_span_id, *(link.span_id for link in one.links))]
        assert len({span.trace_id for span in waited}) == len(waited)
        served += len(waited)
        if len(waited) > 1:
            for span in waited:
                assert one.span_id in [link.span_id for link in span.links]
    assert served == searches


def test_a_trace_spans_the_encoder(encoder_cluster: Cluster, encoder_spans: Collector, photographs: Path) -> None:
    with encoder_cluster.client() as client:
        client.create_collection("traced")
    run_program(encoder_cluster, encoder_spans, next(photographs.rglob("*.jpg")))
    encoded = ("batch", "EncoderService/Encode", "EncoderService/Encode")
    wanted = {
        (*encoded, "SearchService/Upsert", "lookalike.Client/Upsert"),
        (*encoded, "encode", "SearchService/Search", "lookalike.Client/Search"),
    }

    def span_paths() -> set[tuple[str, ...]]:
        return {
            tuple(encoder_spans.path_to_root(span)) for span in encoder_spans.named("lookalike-encoder", "batch")
        }

    wait_until(lambda: wanted <= span_paths(), 20)


def test_nothing_is_traced_unless_asked_for(traced: Cluster, collector: Collector) -> None:
    """Coordinators and shards poll each other continuously."""
    collector.spans.clear()
    with Client(traced.address) as client:
        client.status()
    wait_until(lambda: bool(collector.named("lookalike-coordinator", "SearchService/ClusterStatus")), 20)
    begun = [span.name for _, span in collector.spans if not span.parent_span_id]
    assert begun
    for name in begun:
        assert name.startswith(("SearchService/", "lookalike.Client/")), name


def test_missing_tracing_packages_are_named(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from lookalike.server.config import TracingConfig; from lookalike.server.observe import exporter\n"
        "from lookalike.transport import tracing\n"
        "assert exporter.start(TracingConfig(), {}) is None\n"
        "from lookalike.transport import tracing\n"
        "with tracing.span('x') as span: assert span is None\n"
        "exporter.start(TracingConfig(otlp='http://127.0.0.1:4317'), {})\n"
    )
    failed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert failed.returncode
    assert "CannotStart: tracing.otlp: needs opentelemetry" in failed.stderr
    assert "run pip install '.[tracing]' in the checkout" in failed.stderr
