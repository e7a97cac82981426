"""Owns process supervision: starts processes, restarts one that died after a short delay, and stops all of them.

Each process watches its standard input, which this process holds open, so none outlives it. Each is in its own
process group, so that its children can be killed too. Each writes to LOGS/NAME.log."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

POLL_SECONDS = 0.1
RESTART_SECONDS = 0.3
STOP_SECONDS = 15.0


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """How to start a process. `environment` replaces the harness's own; `prefix` is prepended to the arguments."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    prefix: tuple[str, ...] = ()


@dataclasses.dataclass(slots=True)
class _Supervised:
    command: Command
    running: subprocess.Popen[bytes]
    should_run: bool = True
    died: float | None = None
    deaths: int = 0


class Processes:
    """Supervised processes by name. Thread-safe."""

    def __init__(self, folder: Path, logs: Path) -> None:
        """Creates the supervisor. `folder` is the working directory of the processes."""
        self._folder = folder
        self._logs = logs
        self._supervised: dict[str, _Supervised] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="supervisor", daemon=True)

    def begin(self) -> None:
        """Starts supervising."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._watcher.start()

    def start(self, name: str, command: Command) -> None:
        """Starts a process, or restarts a stopped one, possibly with another command."""
        with self._lock:
            process = self._supervised.get(name)
            if process is None:
                self._supervised[name] = _Supervised(command, self._spawn(name, command))
                return
            _reap(process.running)
            process.command, process.running = command, self._spawn(name, command)
            process.should_run, process.died = True, None

    def stop(self, name: str) -> None:
        """Stops a process gracefully and does not restart it. Kills it if it does not stop in time."""
        with self._lock:
            process = self._supervised[name]
            process.should_run = False
            running = process.running
        for number in (signal.SIGCONT, signal.SIGTERM):
            _send(running, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(STOP_SECONDS)
        _reap(running)

    def send(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to a process; returns its pid."""
        with self._lock:
            running = self._supervised[name].running
            _send(running, number)
            return running.pid

    def command(self, name: str) -> Command:
        """Returns the command that a process was started with."""
        with self._lock:
            return self._supervised[name].command

    def deaths(self) -> int:
        """Returns how often a process died or was killed."""
        with self._lock:
            return sum(process.deaths for process in self._supervised.values())

    def close(self) -> None:
        """Stops every process."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._lock:
            running = [process.running for process in self._supervised.values()]
            for process in running:
                for number in (signal.SIGCONT, signal.SIGTERM):
                    _send(process, number)
            deadline = time.monotonic() + STOP_SECONDS
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                _reap(process)

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for name, process in self._supervised.items():
                    if process.should_run:
                        self._restart_if_dead(name, process)

    def _restart_if_dead(self, name: str, process: _Supervised) -> None:
        if process.running.poll() is None:
            return
        if process.died is None:
            process.died = time.monotonic()
            process.deaths += 1
        elif time.monotonic() - process.died >= RESTART_SECONDS:
            _reap(process.running)
            process.running, process.died = self._spawn(name, process.command), None

    def _spawn(self, name: str, command: Command) -> subprocess.Popen[bytes]:
        with (self._logs / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [*command.prefix, *command.arguments],
                cwd=self._folder,
                env=dict(command.environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                process_group=0,
            )


def _send(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Kills what is left of a process and its children, and releases it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
