"""Observability: metrics after known work, log contents, and that neither exposes stored data."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from lookalike import Record
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import CannotStart, InvalidRequest, NotFound, SlotMoved
from lookalike.server.observe import metrics
from lookalike.transport.rpc import error_of
from lookalike.v1 import search_pb2 as pb
from lookalike.v1 import shard_pb2, shard_pb2_grpc
from lookalike.v1.search_pb2_grpc import SearchServiceStub
from tests.cluster.scraping import Samples, config_with_metrics, running, scrape, value
from tests.conftest import Cluster, wait_until
from tests.docs.blocks import blocks_of

ROWS, QUERIES = 400, 30
SECRET = "secret-key.jpg"
DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two partitions of two replicas, which log JSON; with records, searches, a replica of partition 0 that was
    stopped for a while, and one search without partition 1, which was killed."""
    data = tmp_path_factory.mktemp("seen")
    config = config_with_metrics(data, partitions=2, replicas=2, logs="json", log_level="debug")
    with running(config, data) as cluster:
        with cluster.client() as client:
            client.create_collection("photos", bits=64)
            codes = np.random.default_rng(1).integers(0, 256, (ROWS, 8), np.uint8)
            assert client.upsert(
                [Record(f"k{i}", code=code.tobytes()) for i, code in enumerate(codes)], collection="photos"
            )
            for code in codes[:QUERIES]:
                client.search(code=code.tobytes(), collection="photos")
            assert client.delete(["k0"], collection="photos") == 1
            with pytest.raises(NotFound):
                client.search(key=SECRET, collection="photos")
            _stall_a_replica(cluster)
            _lose_a_partition(cluster)
        yield cluster


def _stall_a_replica(cluster: Cluster) -> None:
    """Searches while a replica neither answers nor refuses connections: some calls go to it and are hedged."""
    cluster.kill("shard-r1-0", signal.SIGSTOP)
    try:
        with cluster.client() as client:
            for i in range(8):
                client.search(code=bytes([i] * 8), collection="photos")
    finally:
        cluster.kill("shard-r1-0", signal.SIGCONT)


def _lose_a_partition(cluster: Cluster) -> None:
    pids = {name: cluster.kill(name) for name in ("shard-r0-1", "shard-r1-1")}
    with cluster.client() as client:
        assert list(client.search(code=bytes(8), collection="photos", allow_partial=True).coverage.missing) == [1]
    for name, pid in pids.items():
        cluster.wait_restarted(name, pid)


@pytest.fixture
def coordinator(seen: Cluster) -> Samples:
    return scrape(seen.config.coordinator.metrics)


def test_calls_are_counted_by_name_and_status(coordinator: Samples) -> None:
    assert value(coordinator, "lookalike_rpc_seconds_count", {"rpc": "Search", "code": "OK"}) == QUERIES + 9
    assert value(coordinator, "lookalike_rpc_seconds_count", {"rpc": "Search", "code": "NOT_FOUND"}) == 1
    assert value(coordinator, "lookalike_rpcs_in_flight", {"rpc": "Search"}) == 0


def test_searches_are_counted_by_collection_and_coverage_and_timed_by_stage(coordinator: Samples) -> None:
    assert value(coordinator, "lookalike_search_queries_total", {"collection": "photos"}) == QUERIES + 9
    complete = {"collection": "photos", "coverage": "complete"}
    assert value(coordinator, "lookalike_search_answers_total", complete) == QUERIES + 8
    assert value(coordinator, "lookalike_search_answers_total", {"coverage": "incomplete"}) == 1
    assert value(coordinator, "lookalike_search_missing_partitions_total", {"partition": "1"}) == 1
    for stage in ("fan_out", "merge", "total"):
        labels = {"stage": stage}
        assert value(coordinator, "lookalike_search_stage_seconds_count", labels) >= QUERIES + 9
        assert value(coordinator, "lookalike_search_stage_seconds_sum", labels) > 0


def test_the_status_counts_searches_as_the_metrics_do(seen: Cluster, coordinator: Samples) -> None:
    with seen.client() as client:
        told = client.status().coordinator
    assert told is not None
    assert told.queries == QUERIES + 9
    total = {"stage": "total"}
    assert sum(told.searches) == value(coordinator, "lookalike_search_stage_seconds_count", total)
    upper = told.bounds_ms[6]
    assert sum(told.searches[:7]) == value(
        coordinator, "lookalike_search_stage_seconds_bucket", {**total, "le": str(upper / 1000)}
    )
    assert len(told.searches) == len(told.bounds_ms) + 1


def test_hedged_requests_are_counted_when_a_replica_stalls(coordinator: Samples) -> None:
    sent = value(coordinator, "lookalike_hedges_sent_total", {"partition": "0"})
    assert 1 <= value(coordinator, "lookalike_hedges_won_total", {"partition": "0"}) <= sent


def test_impatient_clients_are_no_failures_of_shards(seen: Cluster) -> None:
    request = pb.SearchRequest(collection="photos", query=pb.Query(code=bytes(8)), options=pb.SearchOptions(k=3))

    def failures() -> float:
        return value(scrape(seen.config.coordinator.metrics), "lookalike_shard_rpc_failures_total")

    before = failures()
    codes = set()
    with grpc.insecure_channel(seen.address) as channel:
        stub = SearchServiceStub(channel)
        for milliseconds in (1, 2, 3, 5, 8) * 20:
            call = stub.Search.future(request, timeout=milliseconds / 1000)
            codes.add(call.code())
        for _ in range(100):
            stub.Search.future(request, timeout=5).cancel()
        stub.Search(request, timeout=10)
    assert grpc.StatusCode.DEADLINE_EXCEEDED in codes
    assert failures() == before


def test_a_search_sent_to_a_place_that_slots_left_is_logged_for_debugging_only(seen: Cluster) -> None:
    request = shard_pb2.ScanRequest(slots=bytes([255]) * 128)
    with grpc.insecure_channel(seen.config.shard_address(0)) as channel, pytest.raises(grpc.RpcError) as refused:
        shard_pb2_grpc.ShardServiceStub(channel).Scan(request, timeout=10, metadata=(("request-id", "moved-1"),))
    assert type(error_of(refused.value)) is SlotMoved
    lines = [line for line in _logged(seen, "shard-r0-0") if line.get("request_id") == "moved-1"]
    assert {line["level"] for line in lines} == {"debug"}


def test_written_records_are_counted_by_outcome(coordinator: Samples) -> None:
    upserted = {"collection": "photos", "operation": "upsert"}
    assert value(coordinator, "lookalike_records_written_total", {**upserted, "outcome": "acknowledged"}) == ROWS
    assert value(coordinator, "lookalike_records_written_total", {**upserted, "outcome": "failed"}) == 0
    assert value(coordinator, "lookalike_records_written_total", {"operation": "delete"}) == 1


def test_each_replica_reports_rows_and_work(seen: Cluster) -> None:
    scans = 0.0
    for replica in range(2):
        shards = [scrape(seen.config.shard_metrics(partition, replica)) for partition in range(2)]
        rows = [
            value(shard, "lookalike_rows", {"partition": str(place), "replica": str(replica)})
            for place, shard in enumerate(shards)
        ]
        assert sum(rows) == ROWS - 1
        owned = [value(shard, "lookalike_shard_slots", {"state": "owned"}) for shard in shards]
        assert sum(owned) == 1024
        scans += value(shards[0], "lookalike_scan_queries_sum")
        # The records that partition 0 has, and perhaps the one that was deleted.
        assert rows[0] <= value(shards[0], "lookalike_commit_records_sum") <= rows[0] + 2
    assert scans >= QUERIES


def test_build_info_reports_one_config_digest(seen: Cluster) -> None:
    addresses = [seen.config.coordinator.metrics, seen.config.shard_metrics(1, 1)]
    told = [dict(labels) for at in addresses for name, labels in scrape(at) if name == "lookalike_info"]
    assert [(one["process"], one["partition"], one["replica"]) for one in told] == [
        ("coordinator", "", ""),
        ("shard", "1", "1"),
    ]
    assert len({one["config_digest"] for one in told}) == 1
    assert told[0]["cluster"] == "throwaway"


def test_a_stopped_replica_is_not_live(seen: Cluster) -> None:
    gone = {"partition": "1", "replica": "0"}

    def live() -> float:
        return value(scrape(seen.config.coordinator.metrics), "lookalike_replica_live", gone)

    wait_until(lambda: live() == 1, 20)
    seen.kill("shard-r0-1", signal.SIGSTOP)
    try:
        wait_until(lambda: live() == 0, 20)
    finally:
        seen.kill("shard-r0-1", signal.SIGCONT)
    wait_until(lambda: live() == 1, 20)


def test_the_encoder_reports_images_and_replicas(encoder_cluster: Cluster, photographs: Path) -> None:
    images = sorted(photographs.rglob("*.jpg"))[:3]
    with encoder_cluster.client() as client:
        client.create_collection("observed")
        client.upsert([Record(image.name, image=image) for image in images], collection="observed")
    config = encoder_cluster.config.encoder
    assert config is not None
    wait_until(
        lambda: (
            value(scrape(config.metrics), "lookalike_encoder_replicas", {"encoder": "default", "state": "running"})
            == 1
        ),
        20,
    )
    samples = scrape(config.metrics)
    assert value(samples, "lookalike_encoder_images_total", {"encoder": "default", "outcome": "encoded"}) >= len(
        images
    )
    assert value(samples, "lookalike_encoder_batch_images_count", {"encoder": "default"}) >= 1
    assert value(samples, "lookalike_rpc_seconds_count", {"rpc": "Encode", "code": "OK"}) >= 1
    assert value(samples, "lookalike_queue_waiting", {"queue": "encode"}) == 0


def test_every_metric_in_alerts_and_dashboards_is_scraped(seen: Cluster) -> None:
    """The encoder's metrics are taken from their declarations, because this cluster has no encoder."""
    addresses = [seen.config.coordinator.metrics]
    addresses += [seen.config.shard_metrics(partition, replica) for partition in range(2) for replica in range(2)]
    scraped = {name for address in addresses for name, _ in scrape(address)}
    scraped |= {declared.name for declared in metrics.ENCODER.all}
    files = [DEPLOY / "prometheus" / "alerts.yml", *(DEPLOY / "grafana" / "dashboards").glob("*.json")]
    assert len(files) == 4
    for file in files:
        named = set(re.findall(r"\b(?:lookalike|process)_[a-z_]+[a-z]\b", _expressions(file)))
        assert named, file
        missing = {
            name for name in named if name not in scraped and name.removesuffix("_bucket") not in scraped
            and re.sub("_(sum|count|bucket)$", "", name) not in scraped
        }  # fmt: skip
        assert not missing, f"{file.name}: {missing}"


def _expressions(file: Path) -> str:
    if file.suffix == ".json":
        panels = json.loads(file.read_text())["panels"]
        return "\n".join(target["expr"] for panel in panels for target in panel.get("targets", []))
    return "\n".join(re.findall(r"expr: (?:\|\n)?((?:.|\n          )*)", file.read_text()))


def test_one_request_id_is_found_in_the_logs_of_coordinator_and_shards(seen: Cluster) -> None:
    request = pb.SearchRequest(
        collection="photos", query=pb.Query(code=bytes(8)), options=pb.SearchOptions(k=3),
    )  # fmt: skip
    with seen.client() as client:
        request.fingerprint = client.get_collection("photos").code_space.fingerprint
    with grpc.insecure_channel(seen.address) as channel:
        SearchServiceStub(channel).Search(request, timeout=10, metadata=(("request-id", "find-me-7"),))
    found = {
        name: [line for line in _logged(seen, name) if line.get("request_id") == "find-me-7"]
        for name in ("coordinator", "shard-r0-0", "shard-r1-0", "shard-r0-1", "shard-r1-1")
    }
    assert [line["rpc"] for line in found["coordinator"]] == ["Search"]
    for partition in (0, 1):
        lines = [*found[f"shard-r0-{partition}"], *found[f"shard-r1-{partition}"]]
        assert lines, f"partition {partition}"
        for line in lines:
            assert line["rpc"] == "Scan"
            assert line["process"] == "shard"
            assert line["partition"] == partition


def test_log_lines_are_json_and_contain_no_record_key(seen: Cluster) -> None:
    for name in ("coordinator", "shard-r0-0", "shard-r1-0"):
        lines = _logged(seen, name)
        assert lines
        for line in lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
            assert {"level", "logger", "message", "cluster", "process"} <= line.keys()
    refused = [line for line in _logged(seen, "coordinator") if "NotFound" in line["message"]]
    assert refused
    for log in (seen.data / "logs").iterdir():
        assert SECRET not in log.read_text()


def test_an_invalid_request_id_is_replaced(seen: Cluster) -> None:
    with grpc.insecure_channel(seen.address) as channel:
        call = SearchServiceStub(channel).Get
        with pytest.raises(grpc.RpcError) as refused:
            call(pb.GetRequest(collection="none"), timeout=10, metadata=(("request-id", 'x" level="error'),))
    trailing = dict(refused.value.trailing_metadata())  # type: ignore[attr-defined]
    assert re.fullmatch("[0-9a-f]{16}", trailing["request-id"])


def test_unknown_collections_create_no_metric_labels(seen: Cluster) -> None:
    with seen.client() as client:
        for i in range(3):
            with pytest.raises((NotFound, InvalidRequest)):
                client.delete(["a"], collection=f"invented-{i}")
    samples = scrape(seen.config.coordinator.metrics)
    assert value(samples, "lookalike_records_written_total", {"collection": "other", "outcome": "failed"}) == 3
    assert not any("invented" in str(labels) for _, labels in samples)


def test_a_metrics_port_in_use_is_named_in_the_error(tmp_path: Path) -> None:
    config = config_with_metrics(tmp_path, partitions=1, replicas=1)
    taken = config.coordinator.model_copy(update={"metrics": config.coordinator.listen})
    config = config.model_copy(update={"coordinator": taken})
    supervisor = Supervisor(config, tmp_path, lambda line: None)
    supervisor.launch()
    try:
        with pytest.raises(CannotStart, match=r"coordinator.metrics: 127.0.0.1:\d+ cannot be bound"):
            supervisor.wait_ready()
    finally:
        supervisor.stop()


def test_a_metrics_port_in_use_is_found_before_anything_starts(tmp_path: Path) -> None:
    config = config_with_metrics(tmp_path, partitions=1, replicas=1)
    address = config.shard_metrics(0)
    assert address is not None
    host, _, port = address.partition(":")
    supervisor = Supervisor(config, tmp_path, lambda line: None)
    with (
        socket.create_server((host, int(port))),
        pytest.raises(CannotStart, match=f"shard-r0-0: {address}"),
    ):
        supervisor.launch()
    supervisor.stop()


def test_status_can_be_watched_without_a_terminal(seen: Cluster) -> None:
    command = [sys.executable, "-m", "lookalike", "status", "--watch", "--interval", "0.2"]
    command += ["--server", seen.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        shown = 0
        for line in process.stdout:
            shown += line.startswith("cluster throwaway")
            if shown == 3:
                break
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(10) == 0


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documented_commands_work(seen: Cluster, tmp_path: Path) -> None:
    """A request's own id stands for the example's, and the Makefile gets a copy of deploy/ to change."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", symlinks=True)
    shutil.copy(DEPLOY.parent / "Makefile", tmp_path)
    request_id = next(line["request_id"] for line in _logged(seen, "coordinator") if "request_id" in line)
    blocks = list(blocks_of("docs/OBSERVABILITY.md"))
    assert len(blocks) == 3
    for block in blocks:
        text = block.text.replace("127.0.0.1:7781", str(seen.config.coordinator.metrics))
        text = text.replace("3b8a6e19c4a9484a", request_id).replace("DATA/", f"{seen.data}/")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=tmp_path, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, (block, done.stderr)
        assert done.stdout or "runbooks" in text
    assert "git.example.com" in (tmp_path / "deploy" / "prometheus" / "alerts.yml").read_text()


def _logged(cluster: Cluster, name: str) -> list[dict[str, Any]]:
    text = (cluster.data / "logs" / f"{name}.log").read_text()
    return [json.loads(line) for line in text.splitlines()]
