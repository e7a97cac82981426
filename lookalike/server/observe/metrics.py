"""Owns the metrics: every name, label and meaning, by kind of process. docs/OBSERVABILITY.md lists the same texts.

Events are counted where they happen. A value that can be read at any time is a sampled gauge: declared here and
read at each scrape (`Gauges`). The number of values of a label is bounded by the number of partitions, replicas
or RPCs, or by MAX_COLLECTIONS if the label names collections; a record's key is never a label."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from lookalike.server.observe.later import Applied

MAX_COLLECTIONS = 100
OTHER = "other"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SHORT_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS[:-1])
_COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclasses.dataclass(frozen=True, slots=True)
class Declared:
    """A metric. name: as scraped, without the suffixes of histograms and summaries."""

    name: str
    kind: str
    text: str
    labels: tuple[str, ...]


Value = TypeVar("Value")
Sample = tuple[Declared, tuple[str, ...], float]


class Declarations:
    """The metrics of one kind of process."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.registry = CollectorRegistry()
        self.registry.register(Applied())  # the first: the others are collected after it
        self.all: list[Declared] = []

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        self._declare(name, "counter", text, labels)
        return Counter(name, text, labels, registry=self.registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        self._declare(name, "gauge", text, labels)
        return Gauge(name, text, labels, registry=self.registry)

    def summary(self, name: str, text: str, *labels: str) -> Summary:
        self._declare(name, "summary", text, labels)
        return Summary(name, text, labels, registry=self.registry)

    def histogram(self, name: str, text: str, *labels: str, buckets: Sequence[float] = _SECONDS) -> Histogram:
        self._declare(name, "histogram", text, labels)
        return Histogram(name, text, labels, registry=self.registry, buckets=buckets)

    def sampled_gauge(self, name: str, text: str, *labels: str) -> Declared:
        """Declares a gauge that `Gauges` reads at each scrape."""
        return self._declare(name, "gauge", text, labels)

    def _declare(self, name: str, kind: str, text: str, labels: tuple[str, ...]) -> Declared:
        self.all.append(Declared(name, kind, text, labels))
        return self.all[-1]


class Gauges(Collector):
    """Reads sampled gauges at each scrape, in the scrape's thread: `reads` must not rely on the event loop."""

    def __init__(self, *reads: Callable[[], Iterable[Sample]]) -> None:
        self._reads = reads

    def describe(self) -> Iterable[Any]:
        return ()

    def collect(self) -> Iterable[GaugeMetricFamily]:
        families: dict[str, GaugeMetricFamily] = {}
        for read in self._reads:
            for declared, labels, value in read():
                if declared.name not in families:
                    family = GaugeMetricFamily(declared.name, declared.text, labels=declared.labels)
                    families[declared.name] = family
                families[declared.name].add_metric(labels, value)
        return families.values()


class CollectionLabels:
    """The names of the first MAX_COLLECTIONS collections as labels, and OTHER for the rest."""

    def __init__(self) -> None:
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        if name not in self._known:
            if len(self._known) >= MAX_COLLECTIONS:
                return OTHER
            self._known.add(name)
        return name


def by_collection(found: Mapping[str, Value]) -> dict[str, list[Value]]:
    """Groups the values of collections by label: the first MAX_COLLECTIONS by name, the rest together as OTHER."""
    labelled: dict[str, list[Value]] = {}
    for place, (name, value) in enumerate(sorted(found.items(), key=lambda item: item[0])):
        labelled.setdefault(name if place < MAX_COLLECTIONS else OTHER, []).append(value)
    return labelled


EVERY = Declarations("Every process")
INFO = EVERY.sampled_gauge(
    "lookalike_info", "Always 1; labels name the process, its version and the digest of its config.",
    "cluster", "version", "process", "partition", "replica", "config_digest",
)  # fmt: skip
READY = EVERY.sampled_gauge("lookalike_ready", "1 while the process's health check reports SERVING.")
RPC_SECONDS = EVERY.histogram(
    "lookalike_rpc_seconds", "Seconds from a call's arrival to its end, by gRPC status; a stream is one call.",
    "rpc", "code",
)  # fmt: skip
RPCS_IN_FLIGHT = EVERY.gauge("lookalike_rpcs_in_flight", "RPCs in flight.", "rpc")
REQUEST_BYTES = EVERY.sampled_gauge("lookalike_request_bytes", "Request bytes in flight.")
REQUEST_BYTES_LIMIT = EVERY.sampled_gauge(
    "lookalike_request_bytes_limit", "Limit on request bytes in flight (max_request_mb)."
)
QUEUE_WAITING = EVERY.sampled_gauge(
    "lookalike_queue_waiting",
    "Items that wait for the next batch: queries for an RPC or a scan, writes for a commit, images for the model.",
    "queue",
)

COORDINATOR = Declarations("Coordinator")
STAGE_SECONDS = COORDINATOR.histogram(
    "lookalike_search_stage_seconds",
    "Seconds of a search's stages: encode (of images), fan_out (until the partitions' answers are merged),"
    " merge (one measurement for all queries that shared an RPC), rerank, and total.",
    "stage",
    buckets=_SHORT_SECONDS,
)
FAN_OUT_SECONDS, MERGE_SECONDS, TOTAL_SECONDS = (
    STAGE_SECONDS.labels(stage) for stage in ("fan_out", "merge", "total")
)
QUERIES = COORDINATOR.counter("lookalike_search_queries_total", "Queries answered.", "collection")
ANSWERS = COORDINATOR.counter(
    "lookalike_search_answers_total",
    "Searches by coverage: complete, incomplete (allow_partial), or refused because partitions were missing.",
    "collection", "coverage",
)  # fmt: skip
MISSING = COORDINATOR.counter(
    "lookalike_search_missing_partitions_total", "Searches in which the partition was missing.", "partition"
)
ROUND_QUERIES = COORDINATOR.histogram(
    "lookalike_round_queries", "Queries that shared one RPC to every partition.", buckets=_COUNTS
)
SHARD_SECONDS = COORDINATOR.summary(
    "lookalike_shard_scan_rpc_seconds",
    "Seconds of answered Scan calls to a shard.",
    "partition",
    "replica",
)
SHARD_FAILURES = COORDINATOR.counter(
    "lookalike_shard_rpc_failures_total",
    "Calls to a shard that failed because of the shard.",
    "partition",
    "replica",
)
HEDGES_SENT = COORDINATOR.counter(
    "lookalike_hedges_sent_total",
    "Hedged reads: sent to another replica because the first was slow.",
    "partition",
)
HEDGES_WON = COORDINATOR.counter(
    "lookalike_hedges_won_total", "Hedged reads that the other replica answered first.", "partition"
)
RECORDS_WRITTEN = COORDINATOR.counter(
    "lookalike_records_written_total",
    "Records by operation (upsert, ingest, delete, set_attributes, copy, expire, restore) and outcome"
    " (acknowledged, failed).",
    "collection", "operation", "outcome",
)  # fmt: skip
SWEEP_SECONDS = COORDINATOR.histogram(
    "lookalike_sweep_seconds", "Seconds of each sweep for expired records.", buckets=(*_SECONDS, 100, 300, 1000)
)
REPLICA_LIVE = COORDINATOR.sampled_gauge(
    "lookalike_replica_live", "1 while the shard answers and is up to date.", "partition", "replica"
)
REPLICA_LAG = COORDINATOR.sampled_gauge(
    "lookalike_replica_lag_seconds",
    "Upper bound of the replica's lag: it has every write acknowledged at least this long ago.",
    "partition",
    "replica",
)
PARTITIONS = COORDINATOR.sampled_gauge("lookalike_partitions", "Target number of partitions.")
SLOTS_TO_MOVE = COORDINATOR.sampled_gauge(
    "lookalike_slots_to_move", "Slots (of 1,024) that are not at their target partition yet."
)
SLOTS_MOVING = COORDINATOR.sampled_gauge(
    "lookalike_slots_moving", "Slots being moved now; included in lookalike_slots_to_move."
)
SLOTS_UNSERVED = COORDINATOR.sampled_gauge("lookalike_slots_unserved", "Slots that no live shard serves.")

SHARD = Declarations("Shard")
ROWS = SHARD.sampled_gauge(
    "lookalike_rows", "Live records in the slots that the shard serves.", "collection", "partition", "replica"
)
COLLECTION_BYTES = SHARD.sampled_gauge(
    "lookalike_collection_bytes", "Memory of the codes.", "collection", "partition", "replica"
)
STALE_SECONDS = SHARD.sampled_gauge(
    "lookalike_shard_stale_seconds",
    "Upper bound of the shard's lag: it has every write acknowledged at least this long ago.",
    "partition",
    "replica",
)
SYNC_AGE_SECONDS = SHARD.sampled_gauge(
    "lookalike_shard_sync_age_seconds",
    "Seconds since the shard last compared itself with enough replicas to have every acknowledged write.",
    "partition",
    "replica",
)
SLOTS_DIFFERING = SHARD.sampled_gauge(
    "lookalike_shard_slots_differing", "Slots that differed from another replica in the last comparison.",
    "partition", "replica",
)  # fmt: skip
SLOTS = SHARD.sampled_gauge(
    "lookalike_shard_slots", "Slots (of 1,024) by their state in the shard.", "partition", "replica", "state"
)
ROWS_LEFT_OVER = SHARD.sampled_gauge(
    "lookalike_shard_rows_left_over", "Rows of slots that moved away, not deleted yet.", "partition", "replica"
)
QUARANTINED = SHARD.sampled_gauge(
    "lookalike_collections_quarantined", "Collections quarantined as damaged.", "partition", "replica"
)
PULLED = SHARD.counter(
    "lookalike_records_pulled_total",
    "Records fetched from other shards: repair (a replica had more), recovery (of a lost disk), move (of slots).",
    "reason",
)
SCAN_QUERIES = SHARD.histogram("lookalike_scan_queries", "Queries that shared one scan.", buckets=_COUNTS)
SCAN_SECONDS = SHARD.histogram(
    "lookalike_scan_seconds", "Seconds of a scan, including the look-up of keys.", buckets=_SHORT_SECONDS
)
CODES_COMPARED = SHARD.counter("lookalike_codes_compared_total", "Codes compared: rows times queries.")
COMMIT_RECORDS = SHARD.histogram(
    "lookalike_commit_records", "Records that shared one commit.", buckets=(*_COUNTS, 4_096, 16_384)
)
COMMIT_SECONDS = SHARD.histogram("lookalike_commit_seconds", "Seconds of a commit, including the sync to disk.")
SCRUBBED = SHARD.counter("lookalike_scrub_rows_total", "Live rows that scrubs verified.")
SCRUB_DAMAGE = SHARD.counter("lookalike_scrub_damage_total", "Scrubs that found damage.")
SCRUB_ENDED = SHARD.gauge(
    "lookalike_scrub_ended_timestamp_seconds",
    "Unix time at which the last scrub of all collections ended; 0 before the first.",
)

ENCODER = Declarations("Encoder")
BATCH_IMAGES = ENCODER.histogram(
    "lookalike_encoder_batch_images", "Images that shared one batch.", "encoder", buckets=_COUNTS[:6]
)
BATCH_SECONDS = ENCODER.histogram("lookalike_encoder_batch_seconds", "Seconds of a batch at a replica.", "encoder")
IMAGES = ENCODER.counter(
    "lookalike_encoder_images_total",
    "Images by outcome: encoded, unreadable, or failed with their batch.",
    "encoder",
    "outcome",
)
ENCODER_REPLICAS = ENCODER.sampled_gauge(
    "lookalike_encoder_replicas", "Replicas of the model, by Ray Serve's state.", "encoder", "state"
)
ENCODER_REPLICAS_MAX = ENCODER.sampled_gauge(
    "lookalike_encoder_replicas_max", "Limit on replicas of the model (max_replicas).", "encoder"
)

BY_PROCESS = {"coordinator": COORDINATOR, "shard": SHARD, "encoder": ENCODER}
