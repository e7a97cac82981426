"""Owns the options of a run and their command line."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

_DESCRIPTION = "Runs mixed load against a cluster and fails if memory, open files, threads or disk keep growing."
_MIN_INTERVAL_SECONDS = 0.5
_SAMPLES = 1_000
_MIN_CYCLE_SECONDS = 3.0
_MAX_CYCLE_SECONDS = 300.0


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run.

    Attributes:
        minutes: How long the load runs.
        output: The folder for the plots, the samples, the logs and the data.
        warm_up: The share of the run whose samples do not count.
        records: How many keys the load writes, deletes and searches; the collection never has more records.
        pause_seconds: How long each of the load's threads waits between two calls, on average.
    """

    minutes: float
    output: Path
    warm_up: float = 0.25
    replicas: int = 2
    records: int = 20_000
    pause_seconds: float = 0.05
    has_encoder: bool = False

    @property
    def seconds(self) -> float:
        return 60 * self.minutes

    @property
    def interval_seconds(self) -> float:
        """The time between two samples."""
        return max(_MIN_INTERVAL_SECONDS, self.seconds / _SAMPLES)

    @property
    def cycle_seconds(self) -> float:
        """The time between two changes of the number of partitions, and between two backups."""
        return min(max(_MIN_CYCLE_SECONDS, self.seconds / 20), _MAX_CYCLE_SECONDS)


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Parses the command line; exits with an error if it is invalid."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=_DESCRIPTION)
    add = parser.add_argument
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--hours", type=float, help="duration of the load")
    length.add_argument("--minutes", type=float, help="duration of the load")
    add("--output", type=Path, default=Path("soak"), help="folder for plots, samples and logs (default: soak)")
    add("--warm-up", type=float, default=0.25, help="share of the run that is not judged (default: 0.25)")
    add("--replicas", type=int, choices=(1, 2, 3), default=2)
    add("--records", type=int, default=20_000, help="number of keys in use (default: 20000)")
    add("--pause", type=float, default=0.05, help="seconds between a thread's calls (default: 0.05)")
    add("--encoder", action="store_true", help="also run the encoder, and write and search for images")
    options = parser.parse_args(arguments)
    minutes = options.minutes if options.hours is None else 60 * options.hours
    if minutes <= 0 or not 0 <= options.warm_up < 1 or options.records < 1 or options.pause < 0:
        parser.error("a duration and --records must be above 0, --warm-up from 0 to 1, --pause 0 or more")
    return Settings(
        minutes, options.output.absolute(), options.warm_up, options.replicas, options.records, options.pause,
        options.encoder,
    )  # fmt: skip
