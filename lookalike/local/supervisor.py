"""Owns a local cluster's processes: starts shards, encoder and coordinator from one config, restarts one that
dies, follows the config when it changes, and stops them all. What each does is its own affair; here they are
commands, addresses and pids.

    DATA/run/config.yaml   the config in force      DATA/run/NAME.pid   each process's pid
    DATA/logs/NAME.log     each process's output    DATA/r0-2/ ...      the shards' folders"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike import wire
from lookalike.files.atomic import atomic_write
from lookalike.model.errors import CannotStart
from lookalike.server.config import CONFIG_POLL_SECONDS, ClusterConfig, dump_config
from lookalike.server.peer_channels import PeerChannels
from lookalike.v1 import shard_pb2
from lookalike.v1.shard_pb2_grpc import ShardServiceStub

POLL_SECONDS = 0.1
STOP_SECONDS = 20.0
RESTART_BASE_SECONDS = 0.25
RESTART_MAX_SECONDS = 10.0
STEADY_SECONDS = 30.0
LEAVING_POLL_SECONDS = 1.0
TAKE_OVER_SECONDS = 1.0
# So long after it is written every process has read the config.
FOLLOWED_SECONDS = 2 * CONFIG_POLL_SECONDS
# In the folder of a shard that was stopped because it held nothing.
EMPTY_FILE = "empty"


@dataclasses.dataclass(slots=True)
class _Process:
    """One supervised command. `address` answers gRPC health once it serves."""

    name: str
    arguments: list[str]
    address: str
    metrics: str | None
    popen: subprocess.Popen[bytes] | None = None
    log_start: int = 0
    started: float = 0.0
    failures: int = 0
    restart_at: float = 0.0
    # A shard of a partition that the config has no more: it is stopped once that holds nothing.
    is_leaving: bool = False
    # A replica that the config has no more: it is stopped once the others have read that.
    stop_at: float | None = None


class Supervisor:
    """A local cluster. `launch` starts it, `wait_ready` returns when all of it serves, `watch` keeps it so,
    `stop` ends it, from wherever it was."""

    def __init__(self, config: ClusterConfig, data: Path, report: Callable[[str], None]) -> None:
        """report: gets a line whenever a process dies and is started again."""
        self._config = config.model_copy(update={"shard": config.shard.model_copy(update={"data": data})})
        self._data = data
        self._peer_channels = PeerChannels(config.security)
        self._report = report
        self._processes: list[_Process] = []
        self._lock: IO[str] | None = None
        self.stopping = False
        self._next: ClusterConfig | None = None
        self._take_over_at = 0.0
        self._refusal = ""

    def launch(self) -> None:
        """Start every process, without waiting for it. Raises CannotStart."""
        self._claim()
        self._processes = list(self._plan())
        # Another cluster's process on a port of ours would pass for ours when asked for its health.
        for name, address in [*self._addresses(self._processes), ("coordinator", self._config.coordinator.web)]:
            _require_free(name, address)
        for process in self._processes:
            self._spawn(process)

    def wait_ready(self) -> None:
        """Return once everything serves, or `ask_to_stop` was called. Raises CannotStart as soon as one
        process has ended."""
        waiting = list(self._processes)
        while waiting and not self._stopped_within(POLL_SECONDS):
            for process in self._processes:
                assert process.popen is not None
                if (code := process.popen.poll()) is not None:
                    raise CannotStart(f"{process.name}: {self._last_words(process, code)}")
            waiting = [process for process in waiting if not self._serves(process.address)]

    def watch(self) -> None:
        """Restart what dies, and stop what is left empty, until `ask_to_stop` is called."""
        look_at = 0.0
        while not self._stopped_within(POLL_SECONDS):
            self._take_over()
            for process in list(self._processes):
                self._tend(process)
            if time.monotonic() >= look_at:
                look_at = time.monotonic() + LEAVING_POLL_SECONDS
                self._stop_leaving()

    def reload(self, config: ClusterConfig) -> None:
        """Have `watch` go over to another config: start the shards that it adds, and let those that it has no more
        hand over what they hold. What stands in the way is reported, and the change waits until it is gone: a port
        that is in use, a full disk, or the config's change of what only a new start can change."""
        self._next = config
        self._take_over_at = 0.0

    def _take_over(self) -> None:
        config = self._next
        if config is None or time.monotonic() < self._take_over_at:
            return
        self._take_over_at = time.monotonic() + TAKE_OVER_SECONDS
        try:
            self._apply(config)
        except CannotStart as error:
            if error.message != self._refusal:
                self._report(f"the config is not applied: {error.message}")
            self._refusal = error.message
            return
        self._refusal = ""
        # Another thread may have put a later one there meanwhile.
        if self._next is config:
            self._next = None

    def _apply(self, config: ClusterConfig) -> None:
        for path in ("cluster", "coordinator", "encoder", "shard.address", "security", "limits"):
            before, after = (_at(one, path) for one in (self._config, config))
            if before != after:
                raise CannotStart(
                    f"config: {path}: cannot change while the cluster runs; stop it and start it anew"
                )
        self._config = config.model_copy(update={"shard": config.shard.model_copy(update={"data": self._data})})
        planned = {process.name: process for process in self._plan()}
        running = {process.name: process for process in self._processes}
        for name, process in planned.items():
            if name not in running:
                for _, address in self._addresses([process]):
                    _require_free(name, address)
        self._write_config()
        for name, process in running.items():
            process.is_leaving = name in planned and planned[name].is_leaving
            process.stop_at = None if name in planned else time.monotonic() + FOLLOWED_SECONDS
        for name, process in planned.items():
            if name not in running:
                self._processes.append(process)
                self._try_to_spawn(process, time.monotonic())

    @staticmethod
    def _addresses(processes: Iterable[_Process]) -> Iterator[tuple[str, str]]:
        """What the processes are to listen on, with each one's name."""
        for process in processes:
            yield process.name, process.address
            if process.metrics is not None:
                yield process.name, process.metrics

    def _stop_leaving(self) -> None:
        """Stop replicas that are none any more, and partitions of which no replica holds anything."""
        for process in [one for one in self._processes if one.stop_at and time.monotonic() > one.stop_at]:
            self._report(f"{process.name} is a replica no more and is stopped; its folder stays")
            self._remove(process)
        leaving = [process for process in self._processes if process.is_leaving]
        for partition in sorted({_partition_of(process) for process in leaving}):
            replicas = [process for process in leaving if _partition_of(process) == partition]
            if all(self._is_empty(process.address) for process in replicas):
                for process in replicas:
                    self._report(f"{process.name} holds nothing any more and is stopped")
                    self._remove(process)
                    (self._data / process.name.removeprefix("shard-") / EMPTY_FILE).touch()

    def _remove(self, process: _Process) -> None:
        self._processes.remove(process)
        if process.popen is not None:
            _end([process.popen])
        self._pid_file(process).unlink(missing_ok=True)

    def ask_to_stop(self) -> None:
        """End `wait_ready` or `watch`. A signal handler may call it, so it takes no lock: the thread that it
        interrupts may hold that one."""
        self.stopping = True

    def _stopped_within(self, seconds: float) -> bool:
        if not self.stopping:
            time.sleep(seconds)
        return self.stopping

    def stop(self) -> None:
        """Stop the coordinator, so that no new work comes, then the rest; kill what takes too long."""
        coordinators = [process for process in self._processes if process.name == "coordinator"]
        others = [process for process in self._processes if process.name != "coordinator"]
        for group in (coordinators, others):
            _end([process.popen for process in group if process.popen is not None])
        for process in self._processes:
            self._pid_file(process).unlink(missing_ok=True)
        self._processes = []
        if self._lock is not None:
            self._lock.close()

    def _claim(self) -> None:
        try:
            for name in ("run", "logs"):
                (self._data / name).mkdir(parents=True, exist_ok=True)
            self._lock = open(self._data / "run" / "lock", "a")  # noqa: SIM115  # closed by `stop`
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write_config()
        except BlockingIOError:
            raise CannotStart(f"data: {self._data} is in use by another cluster; stop that one first") from None
        except OSError as error:
            raise CannotStart(
                f"data: {self._data} cannot be used ({error.strerror}); name a folder that you may write"
            ) from None

    def _write_config(self) -> None:
        try:
            with atomic_write(self.config_file) as file:
                file.write(dump_config(self._config).encode())
        except OSError as error:
            raise CannotStart(
                f"data: {self.config_file} cannot be written ({error.strerror}); make room for it"
            ) from None

    def _plan(self) -> Iterator[_Process]:
        config = self._config
        for partition in range(config.partitions):
            for replica in range(config.replicas):
                yield self._plan_shard(partition, replica)
        yield from self._plan_leaving()
        if config.encoder is not None:
            yield _Process("encoder", ["encoder"], config.encoder.address, config.encoder.metrics)
        yield _Process("coordinator", ["coordinator"], config.coordinator.listen, config.coordinator.metrics)

    def _plan_shard(self, partition: int, replica: int, is_leaving: bool = False) -> _Process:
        arguments = ["shard", "--partition", str(partition), "--replica", str(replica)]
        address = self._config.shard_address(partition, replica)
        metrics = self._config.shard_metrics(partition, replica)
        return _Process(f"shard-r{replica}-{partition}", arguments, address, metrics, is_leaving=is_leaving)

    def _plan_leaving(self) -> Iterator[_Process]:
        """The shards of partitions that the config has no more, but that may still hold something. All replicas
        that the config asks for, also new ones: a slot has moved when each of them says so."""
        leaving = set()
        for folder in self._data.glob("r*-*/shard.json"):
            numbers = folder.parent.name.removeprefix("r").split("-")
            if all(map(str.isdecimal, numbers)) and not (folder.parent / EMPTY_FILE).exists():
                leaving.add(int(numbers[1]))
        for partition in sorted(leaving - set(range(self._config.partitions))):
            for replica in range(self._config.replicas):
                if not (self._data / f"r{replica}-{partition}" / EMPTY_FILE).exists():
                    yield self._plan_shard(partition, replica, is_leaving=True)

    @property
    def config_file(self) -> Path:
        """The config in force, as the processes read it."""
        return self._data / "run" / "config.yaml"

    def _pid_file(self, process: _Process) -> Path:
        return self._data / "run" / f"{process.name}.pid"

    def _log_file(self, process: _Process) -> Path:
        return self._data / "logs" / f"{process.name}.log"

    def _spawn(self, process: _Process) -> None:
        module, *options = process.arguments
        command = [sys.executable, "-m", module, "--config", str(self.config_file), "--watch-stdin", *options]
        with self._log_file(process).open("ab") as log:
            process.log_start = log.tell()
            process.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A group of its own, so that Ctrl-C reaches the supervisor alone; the same session, for Linux
                # shares the processor out by session first, and a busy shard must not starve the coordinator.
                process_group=0,
            )
        if process.name.startswith("shard-"):
            (self._data / process.name.removeprefix("shard-") / EMPTY_FILE).unlink(missing_ok=True)
        process.started = time.monotonic()
        with atomic_write(self._pid_file(process)) as file:
            file.write(b"%d\n" % process.popen.pid)

    def _tend(self, process: _Process) -> None:
        now = time.monotonic()
        if process.popen is None:
            if now >= process.restart_at:
                self._try_to_spawn(process, now)
            return
        if (code := process.popen.poll()) is None:
            if process.failures and now - process.started > STEADY_SECONDS:
                process.failures = 0
            return
        delay = min(RESTART_MAX_SECONDS, RESTART_BASE_SECONDS * 2**process.failures)
        self._report(
            f"{process.name} (pid {process.popen.pid}) ended: {self._last_words(process, code)};"
            f" starting it again in {delay:.2g} s"
        )
        _bury(process.popen)
        process.popen = None
        process.failures += 1
        process.restart_at = now + delay

    def _try_to_spawn(self, process: _Process, now: float) -> None:
        try:
            self._spawn(process)
        except OSError as error:  # a full disk, say: the others go on, and this one is tried again
            self._report(f"{process.name} cannot be started: {error}")
            process.restart_at = now + RESTART_MAX_SECONDS

    def _last_words(self, process: _Process, code: int) -> str:
        """The process's own error line, or its exit code and where to read on."""
        log = self._log_file(process)
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(process.log_start)
            errors = [line.strip() for line in file if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}, see {log}"

    def _serves(self, address: str) -> bool:
        host, _, port = address.rpartition(":")
        reachable = "127.0.0.1" if host in ("0.0.0.0", "[::]") else host
        with contextlib.closing(self._peer_channels.open(f"{reachable}:{port}", grpc)) as channel:
            try:
                answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _is_empty(self, address: str) -> bool:
        """Whether a shard says that it holds nothing and has heard that it is to hold nothing."""
        with contextlib.closing(self._peer_channels.open(address, grpc)) as channel:
            try:
                answer = ShardServiceStub(channel).ShardStatus(shard_pb2.ShardStatusRequest(), timeout=1.0)
            except grpc.RpcError:
                return False
        state = wire.state_from_wire(answer)
        removed = state.partition >= state.target.partitions or state.partition in state.target.drained
        return bool(removed and not state.table.writable.any() and not state.rows_left_over)


def _partition_of(shard: _Process) -> int:
    return int(shard.name.rpartition("-")[2])


def _require_free(name: str, address: str) -> None:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host.strip("[]"), int(port)))
        except OSError as error:
            raise CannotStart(
                f"{name}: {address} cannot be bound ({error.strerror}); free the port or name another"
            ) from None


def _at(config: ClusterConfig, path: str) -> object:
    value: object = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        _bury(process)


def _bury(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and its children, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
