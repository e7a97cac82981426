"""Owns one run: starts a cluster, applies load for the given time, samples what its processes hold, and prints the
slopes. Exits with 0 if all figures are flat, with 1 if one grows, a process ended or calls failed, and with 3 if
the run itself failed."""

from __future__ import annotations

import shutil
import signal
import sys
import threading
import time
from collections.abc import Sequence

from lookalike import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from lookalike.model.errors import CannotStart, LookalikeError
from lookalike.server.config import ClusterConfig, EncoderConfig
from tests.soak.cycles import PARTITIONS, Cycles
from tests.soak.load import CALL_SECONDS, Load
from tests.soak.plot import draw
from tests.soak.samples import Samples, Series
from tests.soak.settings import Settings, parse_settings
from tests.soak.slopes import is_judged, slopes

EXIT_GROWS = 1
EXIT_FAILED = 3
# Calls that meet a shard while it starts or stops may fail.
_FAILED_SHARE = 0.01


class Run:
    """The state of one run."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.data = settings.output / "data"
        self.backups = settings.output / "backups"
        self.reports: list[str] = []
        self._ending = threading.Event()
        encoder = EncoderConfig(bits=64) if settings.has_encoder else None
        self.config: ClusterConfig = ephemeral_config(
            self.data, PARTITIONS[0], encoder, "soak", replicas=settings.replicas
        )
        self.supervisor = Supervisor(self.config, self.data, self._report)

    def go(self) -> bool:
        """Runs the load and prints the verdict; returns whether everything is as it should be.

        Raises:
            CannotStart: If the cluster does not start.
        """
        watcher = threading.Thread(target=self.supervisor.watch, name="supervisor")
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._ending.set())
        self.settings.output.mkdir(parents=True, exist_ok=True)
        for folder in (self.data, self.backups):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        try:
            self.supervisor.launch()
            self.supervisor.wait_ready()
            watcher.start()
            return self._measure()
        finally:
            self.supervisor.ask_to_stop()
            if watcher.is_alive():
                watcher.join()
            self.supervisor.stop()

    def _measure(self) -> bool:
        with (
            Client(self.config.coordinator.listen, timeout=CALL_SECONDS) as client,
            (self.settings.output / "samples.jsonl").open("w", encoding="utf-8") as file,
        ):
            load = Load(self.settings, client)
            cycles = Cycles(self.settings, self.config, self.supervisor, client, self.backups)
            load.prepare()
            samples = Samples(file)
            parts: Sequence[Load | Cycles] = (load, cycles)
            for part in parts:
                part.begin()
            seconds = self._sample(samples, parts)
            for part in parts:
                part.end()
        broken = [error for part in parts for error in part.broken]
        if broken:
            raise broken[0]
        begin = self.settings.warm_up * seconds
        files = draw(samples.series, begin, self.settings.output)
        print(f"plots: {', '.join(map(str, files))}")
        is_flat = _print_slopes(samples.series, begin, seconds)
        are_answered = _print_calls(parts)
        return not self._deaths() and is_flat and are_answered

    def _sample(self, samples: Samples, parts: Sequence[Load | Cycles]) -> float:
        """Samples until the end of the run, or until a signal or an error ends it; returns its duration."""
        start = time.monotonic()
        next_at = start
        while (seconds := time.monotonic() - start) < self.settings.seconds:
            if any(part.broken for part in parts):
                break
            samples.take(seconds, self.data, self.backups)
            next_at = max(next_at + self.settings.interval_seconds, time.monotonic())
            if self._ending.wait(next_at - time.monotonic()):
                break
        return seconds

    def _report(self, line: str) -> None:
        self.reports.append(line)
        print(line, flush=True)

    def _deaths(self) -> int:
        deaths = sum(" ended: " in line for line in self.reports)
        if deaths:
            print(f"FAILED: processes ended {deaths} times; logs in {self.data / 'logs'}")
        return deaths


def _print_slopes(series: Sequence[Series], begin: float, end: float) -> bool:
    found = sorted(slopes(series, begin, end), key=lambda one: one.figure)
    for one in found:
        print(one)
    rest = [one.name for one in series if not is_judged(one, begin, end)]
    print(f"{len(found)} slopes, after {begin:.0f} s of {end:.0f} s")
    if rest:
        print(f"not judged, because they lived too briefly: {len(rest)}: {', '.join(rest)}")
    if not found:
        print("FAILED: the run is too short to judge anything")
    for one in found:
        if one.grows:
            print(f"FAILED: {one.name}: {one.figure} grows")
    return bool(found) and not any(one.grows for one in found)


def _print_calls(parts: Sequence[Load | Cycles]) -> bool:
    is_good = True
    for part in parts:
        for kind in sorted(part.kinds):
            errors = {error: count for (name, error), count in part.failed.items() if name == kind}
            failed, done = sum(errors.values()), part.done[kind]
            print(f"{kind:<16} {done:>9,} done, {failed} failed {errors or ''}".rstrip())
            if not done or failed > max(1.0, _FAILED_SHARE * done):
                print(f"FAILED: {kind}: too few calls succeeded")
                is_good = False
    return is_good


def main() -> int:
    settings = parse_settings()
    run = Run(settings)
    try:
        is_good = run.go()
    except (CannotStart, LookalikeError) as error:
        print(f"error: {error.message}; logs in {run.data / 'logs'}", file=sys.stderr)
        return EXIT_FAILED
    print("flat" if is_good else "FAILED")
    return 0 if is_good else EXIT_GROWS


if __name__ == "__main__":
    sys.exit(main())
