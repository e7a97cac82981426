"""Owns a local cluster's life: starts shards, encoders and coordinator from one config, restarts a process that
dies, applies changes of the config, rotates logs, and stops everything. It imports no code of these processes: it
uses only their commands, addresses and pids."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from lookalike.files.limits import raise_file_limit
from lookalike.local import probes
from lookalike.local.folder import DataFolder
from lookalike.local.plan import check_change, planned
from lookalike.local.process import RESTART_MAX_SECONDS, Process, stop
from lookalike.model.errors import CannotStart
from lookalike.server.config import CONFIG_POLL_SECONDS, ClusterConfig
from lookalike.server.peer_channels import PeerChannels

POLL_SECONDS = 0.1
LEAVING_POLL_SECONDS = 1.0
TAKE_OVER_SECONDS = 1.0
LOGS_POLL_SECONDS = 5.0
# The time within which every process reads a changed config.
FOLLOWED_SECONDS = 2 * CONFIG_POLL_SECONDS


class Supervisor:
    """A local cluster. `launch` starts it, `wait_ready` returns once all processes serve, `watch` keeps it
    running, and `stop` ends it, from any state.

    Args:
        config: The cluster's config.
        data: The folder for data, logs and pids.
        report: Called with one line of text when a process dies, is restarted or is removed.
    """

    def __init__(self, config: ClusterConfig, data: Path, report: Callable[[str], None]) -> None:
        self._folder = DataFolder(data)
        self._config = self._with_data(config)
        self._channels = PeerChannels(config.security)
        self._report = report
        self._processes: list[Process] = []
        self.stopping = False
        self._next: ClusterConfig | None = None
        self._take_over_at = 0.0
        self._refusal = ""

    @property
    def config_file(self) -> Path:
        """The file with the config in effect, which the processes read."""
        return self._folder.config_file

    def launch(self) -> None:
        """Starts every process, without waiting until it serves. Raises CannotStart."""
        raise_file_limit()
        self._folder.claim(self._config)
        self._processes = planned(self._config, self._folder)
        # The health check would mistake another cluster's process on one of our ports for ours.
        _require_free_ports(self._processes)
        probes.require_free("coordinator", self._config.coordinator.web)
        for process in self._processes:
            process.start(self._folder)

    def wait_ready(self) -> None:
        """Returns once everything serves, or `ask_to_stop` was called. Raises CannotStart as soon as a process
        ends."""
        waiting = list(self._processes)
        while waiting and not self._stopped_within(POLL_SECONDS):
            for process in self._processes:
                if (code := process.exit_code()) is not None:
                    raise CannotStart(f"{process.name}: {process.last_words(self._folder, code)}")
            waiting = [
                process
                for process in waiting
                if not all(probes.serves(self._channels, address) for address in process.served)
            ]

    def watch(self) -> None:
        """Restarts processes that die, stops removed ones and rotates logs, until `ask_to_stop` is called."""
        check_at = limit_at = 0.0
        while not self._stopped_within(POLL_SECONDS):
            self._take_over()
            for process in list(self._processes):
                self._tend(process)
            if time.monotonic() >= check_at:
                check_at = time.monotonic() + LEAVING_POLL_SECONDS
                self._stop_removed()
            if time.monotonic() >= limit_at:
                limit_at = time.monotonic() + LOGS_POLL_SECONDS
                self._limit_logs()

    def reload(self, config: ClusterConfig) -> None:
        """Makes `watch` apply another config: it starts added shards and lets removed ones hand over their
        records.

        If the change fails (a port in use, a full disk, a change that needs a restart), the reason is reported
        once and the change is retried until it succeeds."""
        self._next = config
        self._take_over_at = 0.0

    def ask_to_stop(self) -> None:
        """Ends `wait_ready` or `watch`. Safe in a signal handler: it takes no lock, because the interrupted thread
        may hold it."""
        self.stopping = True

    def stop(self) -> None:
        """Stops the coordinators first, so that no new work arrives, then the rest; kills what takes too long."""
        coordinators = [process for process in self._processes if process.is_coordinator]
        others = [process for process in self._processes if not process.is_coordinator]
        for group in (coordinators, others):
            stop(group, self._folder)
        self._processes = []
        self._folder.release()

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
        # Another thread may have set a later config.
        if self._next is config:
            self._next = None

    def _apply(self, config: ClusterConfig) -> None:
        check_change(self._config, config)
        self._config = self._with_data(config)
        wanted = {process.name: process for process in planned(self._config, self._folder)}
        running = {process.name: process for process in self._processes}
        added = [process for name, process in wanted.items() if name not in running]
        _require_free_ports(added)
        self._folder.write_config(self._config)
        for name, process in running.items():
            process.is_leaving = name in wanted and wanted[name].is_leaving
            process.stop_at = None if name in wanted else time.monotonic() + FOLLOWED_SECONDS
        for process in added:
            self._processes.append(process)
            self._try_to_start(process, time.monotonic())

    def _with_data(self, config: ClusterConfig) -> ClusterConfig:
        shard = config.shard.model_copy(update={"data": self._folder.path})
        return config.model_copy(update={"shard": shard})

    def _stop_removed(self) -> None:
        """Stops replicas that were removed from the config, and removed partitions whose replicas hold nothing."""
        for process in [one for one in self._processes if one.stop_at and time.monotonic() > one.stop_at]:
            self._report(f"{process.name} was removed from the config and is stopped; its folder stays")
            self._remove(process)
        leaving: dict[int, list[Process]] = {}
        for process in self._processes:
            if process.is_leaving and process.shard is not None:
                leaving.setdefault(process.shard.partition, []).append(process)
        for _, replicas in sorted(leaving.items()):
            if all(probes.is_drained(self._channels, process.address) for process in replicas):
                for process in replicas:
                    self._report(f"{process.name} holds no records any more and is stopped")
                    self._remove(process)
                    assert process.shard is not None
                    self._folder.mark_empty(*process.shard)

    def _limit_logs(self) -> None:
        for process in self._processes:
            try:
                process.limit_log(self._folder)
            except OSError as error:  # a full disk, for example
                self._report(f"{process.name}: its log cannot be rotated: {error}")

    def _remove(self, process: Process) -> None:
        self._processes.remove(process)
        stop([process], self._folder)

    def _stopped_within(self, seconds: float) -> bool:
        if not self.stopping:
            time.sleep(seconds)
        return self.stopping

    def _tend(self, process: Process) -> None:
        now = time.monotonic()
        if process.popen is None:
            if now >= process.restart_at:
                self._try_to_start(process, now)
            return
        pid, code = process.popen.pid, process.exit_code()
        if code is None:
            process.note_running(now)
            return
        reason = process.last_words(self._folder, code)
        delay = process.note_ended(now)
        self._report(f"{process.name} (pid {pid}) ended: {reason}; restarting it in {delay:.2g} s")

    def _try_to_start(self, process: Process, now: float) -> None:
        try:
            process.start(self._folder)
        except OSError as error:  # a full disk, for example: keep the others running and retry this one
            self._report(f"{process.name} cannot be started: {error}")
            process.restart_at = now + RESTART_MAX_SECONDS


def _require_free_ports(processes: Iterable[Process]) -> None:
    for process in processes:
        for address in process.addresses:
            probes.require_free(process.name, address)
