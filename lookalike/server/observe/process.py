"""Owns the observability of a server process: the start and stop of its logs, metrics and spans."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from importlib.metadata import version
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry

from lookalike.model.errors import CannotStart
from lookalike.server.config import ClusterConfig, dump_config
from lookalike.server.observe import exporter, logs, metrics

_DIGEST_DIGITS = 12


@dataclasses.dataclass(frozen=True, slots=True)
class Process:
    """Identifies one of the cluster's processes.

    Args:
        kind: A key of `metrics.BY_PROCESS`.
        partition: Of a shard.
        replica: Of a shard.
        number: Of a coordinator's process, if several share its ports.
    """

    kind: str
    partition: int | None = None
    replica: int | None = None
    number: int | None = None

    @property
    def place(self) -> dict[str, int]:
        places = {"partition": self.partition, "replica": self.replica, "number": self.number}
        return {name: value for name, value in places.items() if value is not None}


class Observation:
    """The logs, metrics and spans of this process, from the time that its config is read until `stop`."""

    def __init__(self, config: ClusterConfig, process: Process) -> None:
        """Starts to log as the config says."""
        logs.start(
            config.logs, config.log_level, {"cluster": config.cluster, "process": process.kind, **process.place}
        )
        self._process = process
        self._servers: list[Any] = []
        self._provider: Any = None
        self.follow(config)

    def follow(self, config: ClusterConfig) -> None:
        """Makes the metrics report this config as the one in use."""
        self._config = config
        self._digest = hashlib.sha256(dump_config(config).encode()).hexdigest()[:_DIGEST_DIGITS]

    def trace(self) -> None:
        """Starts to send spans, if the config names an endpoint. Raises CannotStart."""
        resource = {
            "service.name": f"lookalike-{self._process.kind}",
            "service.namespace": self._config.cluster,
            "service.version": version("lookalike"),
            **{f"lookalike.{name}": str(value) for name, value in self._process.place.items()},
        }
        self._provider = exporter.start(self._config.tracing, resource)

    def serve_metrics(self, address: str | None, *reads: Callable[[], Iterable[metrics.Sample]]) -> None:
        """Serves GET /metrics.

        Args:
            address: "host:port"; None serves nothing.
            reads: Functions that yield the current values of gauges; called at each scrape.

        Raises:
            CannotStart: If the address cannot be bound.
        """
        if address is None:
            return
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        registry.register(metrics.EVERY.registry)
        registry.register(metrics.BY_PROCESS[self._process.kind].registry)
        registry.register(metrics.Gauges(self._info, *reads))
        for collector in (
            prometheus_client.ProcessCollector,
            prometheus_client.PlatformCollector,
            prometheus_client.GCCollector,
        ):
            collector(registry=registry)
        host, _, port = address.rpartition(":")
        try:
            server, _ = prometheus_client.start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise CannotStart(
                f"{self._process.kind}.metrics: {address} cannot be bound ({error.strerror}); free the port, name"
                " another, or set null"
            ) from None
        self._servers.append(server)

    def stop(self) -> None:
        """Sends the last spans and closes the ports of metrics."""
        for server in self._servers:
            server.shutdown()
            server.server_close()
        if self._provider is not None:
            self._provider.shutdown()

    def _info(self) -> Iterable[metrics.Sample]:
        place = self._process.place
        yield (
            metrics.INFO,
            (
                self._config.cluster,
                version("lookalike"),
                self._process.kind,
                str(place.get("partition", "")),
                str(place.get("replica", "")),
                self._digest,
            ),
            1,
        )
