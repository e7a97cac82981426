"""Owns the cluster under test: its config file, its processes, the host of each, and whether all of them serve.
`tests.chaos.faults` decides what happens to the processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from lookalike import Client
from lookalike.model.errors import LookalikeError
from lookalike.model.records import SLOTS
from lookalike.model.status import ClusterStatus
from lookalike.server.config import (
    ClusterConfig,
    CoordinatorConfig,
    EncoderConfig,
    ShardConfig,
    dump_config,
)
from tests.chaos.clocks import Clocks
from tests.chaos.disks import Disks
from tests.chaos.network import Network, coordinator_host, replica_host
from tests.chaos.processes import Command, Processes
from tests.chaos.settings import MAX_PARTITIONS, Settings

ENCODER = "encoder"
_ROOT = Path(__file__).resolve().parents[2]
_POLL_SECONDS = 0.2
_STATUS_SECONDS = 4.0


def shard_name(replica: int, partition: int) -> str:
    return f"shard-r{replica}-{partition}"


def coordinator_name(index: int) -> str:
    return f"coordinator{index}"


@dataclasses.dataclass(frozen=True, slots=True)
class Target:
    """A process that faults can be injected into. `partition` is None unless it is a shard."""

    name: str
    host: str
    partition: int | None = None


class Cluster:
    """A cluster of real processes."""

    def __init__(self, settings: Settings, network: Network, data: Path) -> None:
        self.settings = settings
        self.network = network
        self.data = data
        self.partitions = settings.partitions
        self.addresses = [network.coordinator_address(index) for index in range(settings.coordinators)]
        self.disks = Disks()
        self.processes = Processes(_ROOT, data / "logs")
        self.config_file = data / "config.yaml"
        self._clocks = Clocks(data / "clock")
        self._clients = [Client(address, timeout=_STATUS_SECONDS) for address in self.addresses]
        self._running_partitions = settings.partitions

    def start(self) -> None:
        """Starts every process, without waiting for it."""
        self.write_config()
        # Mount before any process starts, so that processes in all network namespaces see the mounts.
        for partition in range(MAX_PARTITIONS):
            self.disks.mount(self.data / f"r{partition % self.settings.replicas}-{partition}")
        self.processes.begin()
        for partition in range(self.partitions):
            self.start_partition(partition)
        if self.settings.has_encoder:
            self._start(Target(ENCODER, ENCODER), [ENCODER], {})
        for index in range(self.settings.coordinators):
            own = {
                "LOOKALIKE__COORDINATOR__LISTEN": self.network.coordinator_address(index),
                "LOOKALIKE__COORDINATOR__WEB": self.network.coordinator_web(index),
            }
            self._start(Target(coordinator_name(index), coordinator_host(index)), ["coordinator"], own)

    def start_partition(self, partition: int) -> None:
        for replica in range(self.settings.replicas):
            target = Target(shard_name(replica, partition), replica_host(replica), partition)
            self._start(target, ["shard", "--partition", str(partition), "--replica", str(replica)], {})

    def write_config(self) -> None:
        """Writes the config for the current number of partitions atomically."""
        settings, network = self.settings, self.network
        config = ClusterConfig(
            cluster="chaos",
            partitions=self.partitions,
            replicas=settings.replicas,
            write_quorum=settings.write_quorum,
            shard=ShardConfig(address=network.shard_address, data=self.data),
            coordinator=CoordinatorConfig(listen=network.coordinator_address(0), web=network.coordinator_web(0)),
            encoder=EncoderConfig(address=network.encoder_address, bits=64) if settings.has_encoder else None,
        )
        temporary = self.config_file.with_suffix(".new")
        temporary.write_text(dump_config(config), encoding="utf-8")
        temporary.rename(self.config_file)

    def set_partitions(self, partitions: int) -> None:
        """Changes the number of partitions of the running cluster. Surplus shards keep running until
        `stop_emptied_shards`."""
        self.partitions = partitions
        self.write_config()
        for partition in range(self._running_partitions, partitions):
            self.start_partition(partition)
        self._running_partitions = max(self._running_partitions, partitions)
        for target in self.shards() + self.coordinators():
            self.processes.send(target.name, signal.SIGHUP)

    def is_rebalanced(self) -> bool:
        """Returns whether every coordinator reports all slots on their target partitions."""
        statuses = self._statuses()
        return all(status is not None and self._is_rebalanced(status) for status in statuses)

    def stop_emptied_shards(self) -> list[str]:
        """Stops the shards of surplus partitions if all their slots have moved; returns their names."""
        if self._running_partitions <= self.partitions or not self.is_rebalanced():
            return []
        surplus = [
            target.name for target in self.shards() if target.partition is not None
            and target.partition >= self.partitions
        ]  # fmt: skip
        for name in surplus:
            self.processes.stop(name)
        self._running_partitions = self.partitions
        return surplus

    def shards(self) -> list[Target]:
        """Returns the running shards, including surplus ones."""
        return [
            Target(shard_name(replica, partition), replica_host(replica), partition)
            for partition in range(self._running_partitions)
            for replica in range(self.settings.replicas)
        ]

    def coordinators(self) -> list[Target]:
        return [
            Target(coordinator_name(index), coordinator_host(index)) for index in range(self.settings.coordinators)
        ]

    def everything(self) -> list[Target]:
        encoder = [Target(ENCODER, ENCODER)] if self.settings.has_encoder else []
        return [*self.shards(), *self.coordinators(), *encoder]

    def restart(self, name: str, clock_offset_seconds: float | None = None) -> None:
        """Stops a process gracefully and starts it again, optionally with clock skew."""
        command = self.processes.command(name)
        if clock_offset_seconds is not None:
            environment = self._clocks.shifted(command.environment, clock_offset_seconds)
            command = dataclasses.replace(command, environment=environment)
        self.processes.stop(name)
        self.processes.start(name, command)

    def serves(self) -> bool:
        """Returns whether every coordinator reports every replica as serving."""
        return all(status is not None and self._is_serving(status) for status in self._statuses())

    def wait_serving(self, seconds: float) -> bool:
        """Waits until `serves`; returns whether that happened in time."""
        return wait_until(self.serves, seconds)

    def describe(self) -> str:
        """Returns the state of each partition as text."""
        lines = []
        for address, status in zip(self.addresses, self._statuses(), strict=True):
            if status is None:
                lines.append(f"coordinator {address} does not answer")
                continue
            for partition in status.partitions:
                states = ", ".join(f"{replica.state} {replica.reason}".strip() for replica in partition.replicas)
                lines.append(f"{address}: partition {partition.partition}: {partition.slots} slots, {states}")
        return "\n".join(lines)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.processes.close()
        self.disks.close()

    def _statuses(self) -> Sequence[ClusterStatus | None]:
        return [_status(client) for client in self._clients]

    def _is_serving(self, status: ClusterStatus) -> bool:
        served = {partition.partition for partition in status.partitions}
        replicas = [replica for partition in status.partitions for replica in partition.replicas]
        encoder = "serving" if self.settings.has_encoder else "none"
        return (
            served >= set(range(self.partitions))
            and len(replicas) >= self.partitions * self.settings.replicas
            and all(replica.state == "serving" for replica in replicas)
            and status.encoder.state == encoder
        )

    def _is_rebalanced(self, status: ClusterStatus) -> bool:
        slots = {partition.partition: partition.slots for partition in status.partitions}
        assigned = sum(slots.get(partition, 0) for partition in range(self.partitions))
        surplus = sum(count for partition, count in slots.items() if partition >= self.partitions)
        rebalance = getattr(status, "rebalance", None)
        return assigned == SLOTS and surplus == 0 and not getattr(rebalance, "slots_to_move", 0)

    def _start(self, target: Target, arguments: Sequence[str], environment: dict[str, str]) -> None:
        module, *options = arguments
        command = (
            sys.executable, "-m", module, "--config", str(self.config_file), "--watch-stdin", *options,
        )  # fmt: skip
        prefix = self.network.prefix(target.host)
        self.processes.start(target.name, Command(command, {**os.environ, **environment}, prefix))


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Polls a condition; returns whether it held before the deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _status(client: Client) -> ClusterStatus | None:
    try:
        return client.status()
    except LookalikeError:
        return None
