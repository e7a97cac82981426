"""Owns one run: starts a cluster, applies load and faults, waits for recovery, reads everything and prints the
verdict. Exits with 0 only if nothing was lost, resurrected, duplicated, stale, falsely complete, corrupted or
unreadable."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lookalike import Client
from lookalike.model.errors import CannotStart
from tests.chaos import disks
from tests.chaos.call_stats import CALM, CallStats
from tests.chaos.checked_reads import CheckedReads
from tests.chaos.cluster import Cluster, wait_until
from tests.chaos.content import Codes, Images, Source
from tests.chaos.faults import Faults
from tests.chaos.final_check import check_every_key, check_shared
from tests.chaos.history import History
from tests.chaos.isolation import isolate
from tests.chaos.network import make_network
from tests.chaos.settings import Settings, parse_settings
from tests.chaos.shared import SharedRecords
from tests.chaos.verdict import Log, Tally, print_verdict, verdict
from tests.chaos.violations import plant_violation, result_filter
from tests.chaos.workload import CALL_SECONDS, Coordinators, Workload, keys_of

EXIT_VIOLATION = 1
EXIT_FAILED = 3
_WRITERS = 4
_READERS = 3
_SELECTORS = 2
_CALM_SHARE = 0.1
_CALM_MAX_SECONDS = 5.0
_START_SECONDS = 60.0
_ENCODER_START_SECONDS = 180.0
_RECOVERY_SECONDS = 120.0


class Run:
    """The state of one run. Each collection has its own `CheckedReads`."""

    def __init__(self, settings: Settings, cluster: Cluster, log: Log) -> None:
        self.settings = settings
        self.cluster = cluster
        self.log = log
        self.stats = CallStats()
        self.tally = Tally(log, settings.tolerate_late)
        self.faults = Faults(settings, cluster, self.stats, log)
        self.harness_errors: list[BaseException] = []
        self.checked_reads: list[CheckedReads] = []
        self.shared: SharedRecords | None = None

    def go(self) -> bool:
        """Executes the run and prints the verdict; returns whether there was no violation.

        Raises:
            CannotStart: If the cluster does not start.
            BaseException: The error of the harness itself that ended the run.
        """
        settings, cluster = self.settings, self.cluster
        cluster.start()
        if not cluster.disks.folders:
            self.log.say(disks.NOT_PERMITTED)
        if not cluster.wait_serving(_ENCODER_START_SECONDS if settings.has_encoder else _START_SECONDS):
            raise CannotStart(f"the cluster is not serving:\n{cluster.describe()}")
        self.log.say("cluster is serving")
        with _clients(cluster) as coordinators:
            workload = self._workload(coordinators)
            workload.start()
            self._inject_faults()
            is_settled = self._wait_recovered()
            if not workload.stop(_RECOVERY_SECONDS):
                self.log.say("some writes were never acknowledged")
            if self.harness_errors:
                raise self.harness_errors[0]
            self._check_every_key(coordinators)
        acknowledged = sum(reads.history.acknowledged() for reads in self.checked_reads)
        deaths = cluster.processes.deaths()
        print_verdict(
            verdict(settings, self.tally, self.stats, acknowledged, self.faults.counts, is_settled, deaths)
        )
        return self.tally.is_clean

    def _workload(self, coordinators: Coordinators) -> Workload:
        seed = self.settings.seed
        workload = Workload(coordinators, self.harness_errors.append)
        with Client(self.cluster.addresses[0], timeout=_ENCODER_START_SECONDS) as patient:
            self._load(workload, Codes(patient), [f"writer{i}" for i in range(_WRITERS)], _READERS)
            if self.settings.has_encoder:
                self._load(workload, Images(patient, seed), ["painter0"], 1)
            if self.settings.quorum_is_fresh:
                self.shared = SharedRecords(patient, self.tally, self.stats)
                for writer, rng in self.shared.writers(seed):
                    workload.add_shared_writer(writer, rng)
        return workload

    def _load(self, workload: Workload, source: Source, writers: list[str], readers: int) -> None:
        history = History(key for writer in writers for key in keys_of(writer))
        altering = result_filter(self.settings.plant)
        reads = CheckedReads(self.settings, source, history, self.tally, self.stats, altering)
        self.checked_reads.append(reads)
        for writer in writers:
            is_fresh = self.settings.quorum_is_fresh
            seed = f"{writer} {self.settings.seed}"
            workload.add_writer(writer, reads, self.stats, self.tally, is_fresh, seed)
        for number in range(readers):
            seed = f"reader {source.collection} {number} {self.settings.seed}"
            workload.add_reader(reads, seed)
        for number in range(_SELECTORS):
            workload.add_selector(reads, f"selector {source.collection} {number} {self.settings.seed}")

    def _inject_faults(self) -> None:
        seconds = self.settings.seconds
        until = time.monotonic() + seconds
        time.sleep(min(_CALM_MAX_SECONDS, _CALM_SHARE * seconds))
        self.faults.run(until, lambda: not self.harness_errors)
        time.sleep(max(0.0, until - time.monotonic()))
        self.stats.phase = CALM

    def _wait_recovered(self) -> bool:
        """Waits until all replicas serve and rebalancing is complete; returns whether that happened in time."""
        self.log.say("waiting for recovery")
        resharding = self.faults.resharding
        recovered = wait_until(lambda: resharding.is_done and self.cluster.serves(), _RECOVERY_SECONDS)
        self.log.say("cluster is serving" if recovered else f"not recovered:\n{self.cluster.describe()}")
        return recovered

    def _check_every_key(self, coordinators: Coordinators) -> None:
        plant_violation(
            self.settings.plant, coordinators[0][1], self.checked_reads[0].source, self.checked_reads[0].history
        )
        if self.shared is not None:
            check_shared(self.shared, coordinators, self.tally)
        for reads in self.checked_reads:
            self.log.say(f"reading all {len(reads.history.keys)} keys of {reads.source.collection}")
            check_every_key(reads, coordinators, self.tally)


@contextlib.contextmanager
def _clients(cluster: Cluster) -> Iterator[Coordinators]:
    with contextlib.ExitStack() as stack:
        yield [
            (f"coordinator{index}", stack.enter_context(Client(address, timeout=CALL_SECONDS)))
            for index, address in enumerate(cluster.addresses)
        ]


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """Yields the folder for data and logs. A temporary folder is kept if the run fails."""
    if settings.data is not None:
        settings.data.mkdir(parents=True, exist_ok=True)
        yield settings.data.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="lookalike-chaos-"))
    try:
        yield folder
    except BaseException:
        print(f"logs: {folder / 'logs'}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def _run(settings: Settings, is_isolated: bool) -> None:
    """Executes a run.

    Raises:
        SystemExit: If the checker found a violation.
    """
    log = Log()
    log.say(f"seed {settings.seed}: {settings}")
    network, about = make_network(settings.replicas, settings.coordinators, settings.has_network, is_isolated)
    log.say(about)
    with _folder(settings) as data:
        cluster = Cluster(settings, network, data)
        try:
            is_good = Run(settings, cluster, log).go()
        finally:
            cluster.close()
            network.close()
        if not is_good:
            raise SystemExit(EXIT_VIOLATION)


def main() -> int:
    settings = parse_settings()
    is_isolated = isolate(sys.argv[1:])
    try:
        _run(settings, is_isolated)
    except CannotStart as error:
        print(f"error: {error.message}", file=sys.stderr)
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
