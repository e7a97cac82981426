"""Owns processes: starts them, starts one that died again after a moment, and ends them all. What they are is the
cluster's affair.

Each runs with its standard input held open by this process, so none outlives it, and in a process group of its
own, so a killed one leaves nothing behind. Each writes to LOGS/NAME.log."""

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
    """How a process is started. environment: in place of the harness's own. prefix: goes before the command."""

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    prefix: tuple[str, ...] = ()


@dataclasses.dataclass(slots=True)
class _Kept:
    command: Command
    running: subprocess.Popen[bytes]
    is_wanted: bool = True
    died: float | None = None
    deaths: int = 0


class Keeper:
    """Processes by name. All methods may be called from any thread."""

    def __init__(self, folder: Path, logs: Path) -> None:
        """folder: where the processes run."""
        self._folder = folder
        self._logs = logs
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.RLock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def begin(self) -> None:
        """Watch over the processes from now on."""
        self._logs.mkdir(parents=True, exist_ok=True)
        self._watcher.start()

    def start(self, name: str, command: Command) -> None:
        """Start a process, or start a stopped one again, perhaps otherwise than before."""
        with self._lock:
            kept = self._kept.get(name)
            if kept is None:
                self._kept[name] = _Kept(command, self._spawn(name, command))
                return
            _bury(kept.running)
            kept.command, kept.running, kept.is_wanted, kept.died = command, self._spawn(name, command), True, None

    def stop(self, name: str) -> None:
        """End a process as an operator would, and leave it so. One that does not listen is killed."""
        with self._lock:
            kept = self._kept[name]
            kept.is_wanted = False
            running = kept.running
        for number in (signal.SIGCONT, signal.SIGTERM):
            _send(running, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(STOP_SECONDS)
        _bury(running)

    def send(self, name: str, number: signal.Signals) -> int:
        """Send a signal to a process; returns its pid."""
        with self._lock:
            running = self._kept[name].running
            _send(running, number)
            return running.pid

        return self._kept[name].command

    def command(self, name: str) -> Command:
        """How a process was started."""
        with self._lock:
            return self._kept[name].command

    def deaths(self) -> int:
        """How often a process ended that should not have, or was killed."""
        with self._lock:
            return sum(kept.deaths for kept in self._kept.values())

    def close(self) -> None:
        """End every process."""
        self._stopping.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._lock:
            running = [kept.running for kept in self._kept.values()]
            for process in running:
                for number in (signal.SIGCONT, signal.SIGTERM):
                    _send(process, number)
            deadline = time.monotonic() + STOP_SECONDS
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
                _bury(process)

    def _watch(self) -> None:
        while not self._stopping.wait(POLL_SECONDS):
            with self._lock:
                for name, kept in self._kept.items():
                    if kept.is_wanted:
                        self._tend(name, kept)

    def _tend(self, name: str, kept: _Kept) -> None:
        if kept.running.poll() is None:
            return
        if kept.died is None:
            kept.died = time.monotonic()
            kept.deaths += 1
        elif time.monotonic() - kept.died >= RESTART_SECONDS:
            _bury(kept.running)
            kept.running, kept.died = self._spawn(name, kept.command), None

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


def _bury(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a process and its children, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    process.stdin.close()
