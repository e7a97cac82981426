"""Owns one run: a cluster is started, loaded and broken for a while, healed, read back, and judged. Exits with 0
only if nothing was lost, resurrected, duplicated, stale, falsely complete, corrupted or unreadable."""

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
from tests.chaos.cluster import Cluster, wait_until
from tests.chaos.content import Codes, Images, Source
from tests.chaos.faults import Faults
from tests.chaos.history import History
from tests.chaos.isolation import isolate
from tests.chaos.meter import CALM, Meter
from tests.chaos.network import make_network
from tests.chaos.plant import answerer, tell_lie
from tests.chaos.readback import read_back
from tests.chaos.reading import Reading
from tests.chaos.settings import Settings, parse_settings
from tests.chaos.verdict import Log, Tally, print_verdict, verdict
from tests.chaos.workload import CALL_SECONDS, Coordinators, Workload, keys_of

EXIT_VIOLATION = 1
EXIT_FAILED = 3
_WRITERS = 4
_READERS = 3
_CALM_SHARE = 0.1
_CALM_MAX_SECONDS = 5.0
_START_SECONDS = 60.0
_ENCODER_START_SECONDS = 180.0
_HEAL_SECONDS = 120.0


class Run:
    """Everything of one run: a collection is read and written by a `Reading` of its own."""

    def __init__(self, settings: Settings, cluster: Cluster, log: Log) -> None:
        self.settings = settings
        self.cluster = cluster
        self.log = log
        self.meter = Meter()
        self.tally = Tally(log, settings.tolerate_late)
        self.faults = Faults(settings, cluster, self.meter, log)
        self.defects: list[BaseException] = []
        self.readings: list[Reading] = []

    def go(self) -> bool:
        """Returns whether the verdict is good. Raises CannotStart, or the defect of the harness that ended it."""
        settings, cluster = self.settings, self.cluster
        cluster.start()
        if not cluster.disks.folders:
            self.log.say(disks.NOT_PERMITTED)
        if not cluster.wait_serving(_ENCODER_START_SECONDS if settings.has_encoder else _START_SECONDS):
            raise CannotStart(f"the cluster does not serve:\n{cluster.describe()}")
        self.log.say("all serves")
        with _clients(cluster) as coordinators:
            workload = self._workload(coordinators)
            workload.start()
            self._break()
            is_settled = self._heal()
            if not workload.stop(_HEAL_SECONDS):
                self.log.say("some writes were never acknowledged")
            if self.defects:
                raise self.defects[0]
            self._read_back(coordinators)
        acknowledged = sum(reading.history.acknowledged() for reading in self.readings)
        deaths = cluster.keeper.deaths()
        print_verdict(
            verdict(settings, self.tally, self.meter, acknowledged, self.faults.counts, is_settled, deaths)
        )
        return self.tally.is_clean

    def _workload(self, coordinators: Coordinators) -> Workload:
        seed = self.settings.seed
        _, client = coordinators[0]
        workload = Workload(coordinators, self.defects.append)
        self._load(workload, Codes(client), [f"writer{i}" for i in range(_WRITERS)], _READERS)
        if self.settings.has_encoder:
            with Client(self.cluster.addresses[0], timeout=_ENCODER_START_SECONDS) as patient:
                self._load(workload, Images(patient, seed), ["painter0"], 1)
        return workload

    def _load(self, workload: Workload, source: Source, writers: list[str], readers: int) -> None:
        history = History(key for writer in writers for key in keys_of(writer))
        lies = answerer(self.settings.plant)
        reading = Reading(self.settings, source, history, self.tally, self.meter, lies)
        self.readings.append(reading)
        for writer in writers:
            workload.add_writer(writer, source, history, self.meter, f"{writer} {self.settings.seed}")
        for number in range(readers):
            seed = f"reader {source.collection} {number} {self.settings.seed}"
            workload.add_reader(reading, seed)

    def _break(self) -> None:
        seconds = self.settings.seconds
        until = time.monotonic() + seconds
        time.sleep(min(_CALM_MAX_SECONDS, _CALM_SHARE * seconds))
        self.faults.run(until, lambda: not self.defects)
        time.sleep(max(0.0, until - time.monotonic()))
        self.meter.phase = CALM

    def _heal(self) -> bool:
        """Wait until all serves and every slot is where it shall be; returns whether it came to that."""
        self.log.say("healing")
        resharding = self.faults.resharding
        healed = wait_until(lambda: resharding.is_done and self.cluster.serves(), _HEAL_SECONDS)
        self.log.say("all serves" if healed else f"not healed:\n{self.cluster.describe()}")
        return healed

    def _read_back(self, coordinators: Coordinators) -> None:
        tell_lie(self.settings.plant, coordinators[0][1], self.readings[0].source, self.readings[0].history)
        for reading in self.readings:
            self.log.say(f"reading back {len(reading.history.keys)} keys of {reading.source.collection}")
            read_back(reading, coordinators, self.tally)


@contextlib.contextmanager
def _clients(cluster: Cluster) -> Iterator[Coordinators]:
    with contextlib.ExitStack() as stack:
        yield [
            (f"coordinator{index}", stack.enter_context(Client(address, timeout=CALL_SECONDS)))
            for index, address in enumerate(cluster.addresses)
        ]


@contextlib.contextmanager
def _folder(settings: Settings) -> Iterator[Path]:
    """Where the cluster keeps data and logs. A temporary folder stays if the run ends badly."""
    if settings.data is not None:
        settings.data.mkdir(parents=True, exist_ok=True)
        yield settings.data.resolve()
        return
    folder = Path(tempfile.mkdtemp(prefix="lookalike-chaos-"))
    try:
        yield folder
    except BaseException:
        print(f"the logs are in {folder / 'logs'}", file=sys.stderr)
        raise
    shutil.rmtree(folder)


def _run(settings: Settings, is_isolated: bool) -> None:
    """Raises SystemExit if the verdict is bad."""
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
