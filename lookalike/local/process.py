"""Owns one supervised process: its command, how it starts and ends, and what it logged last."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

from lookalike.files.atomic import atomic_write
from lookalike.local.folder import DataFolder
from lookalike.local.logs import rotate
from lookalike.transport.retry import Backoff

STOP_SECONDS = 20.0
RESTART_BASE_SECONDS = 0.125
RESTART_MAX_SECONDS = 10.0
# A process that ran for this long is no longer in a crash loop.
STEADY_SECONDS = 30.0


class ShardId(NamedTuple):
    partition: int
    replica: int


@dataclasses.dataclass(slots=True)
class Process:
    """One process of the cluster, running or not.

    Args:
        name: The process's name, which is also the name of its log and pid files.
        arguments: The module to run, and its options.
        address: The address that answers gRPC health checks once the process serves.
        metrics: The address of its metrics, if it has one.
        own_address: The address at which only this process answers, if several share `address`.
        also_serves: Further addresses that answer health checks once the process serves.
        also_listens: Further addresses that it listens on.
        shard: Which shard the process is; None for encoders and the coordinator.
        is_leaving: Whether the config no longer has the shard's partition; the shard is stopped once the partition
            holds no records.
        stop_at: When to stop the shard because the config no longer has this replica, in seconds of the monotonic
            clock; None if the config has it.
    """

    name: str
    arguments: list[str]
    address: str
    metrics: str | None
    shard: ShardId | None = None
    is_leaving: bool = False
    stop_at: float | None = None
    own_address: str | None = None
    also_serves: Sequence[str] = ()
    also_listens: Sequence[str] = ()
    popen: subprocess.Popen[bytes] | None = None
    _log_start: int = 0
    _started: float = 0.0
    _backoff: Backoff = dataclasses.field(
        default_factory=lambda: Backoff(RESTART_BASE_SECONDS, RESTART_MAX_SECONDS)
    )
    restart_at: float = 0.0

    @property
    def addresses(self) -> list[str]:
        """The addresses that the process listens on."""
        own = [self.address] if self.metrics is None else [self.address, self.metrics]
        return [*own, *self.also_serves, *self.also_listens]

    @property
    def served(self) -> list[str]:
        """The addresses that answer health checks once the process serves."""
        return [self.own_address or self.address, *self.also_serves]

    @property
    def is_coordinator(self) -> bool:
        return self.arguments[0] == "coordinator"

    def start(self, folder: DataFolder) -> None:
        """Starts the command. Raises OSError."""
        module, *options = self.arguments
        command = [sys.executable, "-m", module, "--config", str(folder.config_file), "--watch-stdin", *options]
        with folder.log_file(self.name).open("ab") as log:
            self._log_start = log.tell()
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                # A separate process group, so that Ctrl-C reaches the supervisor only. But the same session,
                # because Linux divides processor time by session first, and a busy shard must not starve the
                # coordinator.
                process_group=0,
            )
        if self.shard is not None:
            folder.unmark_empty(*self.shard)
        self._started = time.monotonic()
        with atomic_write(folder.pid_file(self.name)) as file:
            file.write(b"%d\n" % self.popen.pid)

    def exit_code(self) -> int | None:
        """Returns the exit code; None while the process runs, or if it was not started."""
        return None if self.popen is None else self.popen.poll()

    def note_running(self, now: float) -> None:
        """Forgets earlier failures of a process that has run for long enough."""
        if now - self._started > STEADY_SECONDS:
            self._backoff.reset()

    def note_ended(self, now: float) -> float:
        """Cleans up after a process that has ended, and schedules its restart. Returns the delay in seconds."""
        assert self.popen is not None, "it was running"
        _reap(self.popen)
        self.popen = None
        delay = self._backoff.next_seconds()
        self.restart_at = now + delay
        return delay

    def limit_log(self, folder: DataFolder) -> None:
        """Rotates the process's log if it is too large. Raises OSError."""
        if rotate(folder.log_file(self.name)):
            self._log_start = 0

    def last_words(self, folder: DataFolder, code: int) -> str:
        """Returns the last error that the process logged, or its exit code and the path of its log."""
        log = folder.log_file(self.name)
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(self._log_start)
            errors = [line.strip() for line in file if line.startswith("error: ")]
        if errors:
            return errors[-1].removeprefix("error: ")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{how}, see {log}"


def stop(processes: Sequence[Process], folder: DataFolder) -> None:
    """Stops processes together, with SIGTERM, and kills those that take too long."""
    running = [process.popen for process in processes if process.popen is not None]
    for popen in running:
        if popen.poll() is None:
            popen.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for popen in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            popen.wait(max(0.0, deadline - time.monotonic()))
        _reap(popen)
    for process in processes:
        folder.pid_file(process.name).unlink(missing_ok=True)


def _reap(popen: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a process and its children, and releases its resources."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(popen.pid, signal.SIGKILL)
    popen.wait()
    assert popen.stdin is not None
    popen.stdin.close()
