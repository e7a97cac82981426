"""Owns fault injection: a weighted set of faults, shuffled by the seed and injected one at a time. Each fault ends
before the next begins, with a pause between.

Half of the faults affect one process, so that a replicated cluster should stay available. The other half may
affect several at once and remove a quorum: then errors are permitted, but wrong answers are not."""

from __future__ import annotations

import collections
import itertools
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence

from tests.chaos.call_stats import CALM, CallStats
from tests.chaos.cluster import ENCODER, Cluster, Target
from tests.chaos.network import has_traffic
from tests.chaos.reshard import Resharding
from tests.chaos.settings import Settings
from tests.chaos.verdict import Log

_WEIGHTS = {
    "kill-shard": 3,
    "kill-coordinator": 1,
    "kill-encoder": 1,
    "pause": 2,
    "full-disk": 1,
    "clock": 2,
    "cut": 1,
    "one-way-cut": 1,
    "reshard": 1,
    "rolling-restart": 1,
}
_SINGLE_TARGET_SHARE = 0.5
_PAUSE_SECONDS = (2.0, 4.0)
_STOPPED_SECONDS = 5.0
_FULL_SECONDS = (3.0, 6.0)
_CUT_SECONDS = (3.0, 8.0)
_CLOCK_OFFSETS_SECONDS = (-60.0, 60.0)
_RESTART_PATIENCE_SECONDS = 30.0


class Faults:
    """Injects faults into a cluster and ends them."""

    def __init__(self, settings: Settings, cluster: Cluster, stats: CallStats, log: Log) -> None:
        self.counts: collections.Counter[str] = collections.Counter()
        self.resharding = Resharding(cluster)
        self._cluster = cluster
        self._stats = stats
        self._log = log
        self._rng = random.Random(f"faults {settings.seed}")
        self._injectors: dict[str, Callable[[], None]] = {
            "kill-shard": self._kill_shards,
            "kill-coordinator": lambda: self._kill([self._rng.choice(cluster.coordinators())]),
            "kill-encoder": lambda: self._kill([Target(ENCODER, ENCODER)]),
            "pause": self._pause,
            "full-disk": self._fill_disk,
            "clock": self._shift_clock,
            "cut": lambda: self._cut(both_ways=True),
            "one-way-cut": lambda: self._cut(both_ways=False),
            "reshard": lambda: self._say("reshard", self.resharding.begin()),
            "rolling-restart": self._restart_host,
        }
        self._settings = settings

    def run(self, until: float, keep_going: Callable[[], bool]) -> None:
        """Injects faults until that time of the monotonic clock; the last fault has ended when it returns."""
        # Not in the constructor: which faults are possible is known only once the cluster has started.
        kinds = [kind for kind in self._settings.kinds if self._is_possible(kind)]
        schedule = self._schedule(kinds)
        while kinds and time.monotonic() < until and keep_going():
            kind = next(schedule)
            if kind == "reshard" and not self.resharding.is_ready():
                continue
            self._stats.phase = kind
            self._injectors[kind]()
            self.counts[kind] += 1
            self._pause_between_faults(until)
            self._stats.phase = CALM
            if stopped := self.resharding.advance():
                self._log.say(f"stopped emptied shards: {', '.join(stopped)}")

    def _is_possible(self, kind: str) -> bool:
        cluster = self._cluster
        if kind in ("cut", "one-way-cut"):
            return bool(cluster.network.hosts)
        if kind == "full-disk":
            return bool(cluster.disks.folders)
        return kind != "kill-encoder" or cluster.settings.has_encoder

    def _schedule(self, kinds: Sequence[str]) -> Iterator[str]:
        while True:
            order = [kind for kind in kinds for _ in range(_WEIGHTS[kind])]
            self._rng.shuffle(order)
            yield from order

    def _pause_between_faults(self, until: float) -> None:
        """Lets the cluster recover."""
        time.sleep(max(0.0, min(self._rng.uniform(*_PAUSE_SECONDS), until - time.monotonic())))

    def _say(self, kind: str, text: str) -> None:
        self._log.say(f"fault {kind}: {text}")

    def _targets(self, among: list[Target]) -> list[Target]:
        """Picks one process or several."""
        count = 1 if self._rng.random() < _SINGLE_TARGET_SHARE else self._rng.randint(1, 3)
        return self._rng.sample(among, min(count, len(among)))

    def _kill_shards(self) -> None:
        self._kill(self._targets(self._cluster.shards()))

    def _kill(self, targets: list[Target]) -> None:
        killed = [(target.name, self._cluster.processes.send(target.name, signal.SIGKILL)) for target in targets]
        self._say("kill -9", ", ".join(f"{name} (pid {pid})" for name, pid in killed))

    def _pause(self) -> None:
        targets = self._targets([*self._cluster.shards(), *self._cluster.coordinators()])
        self._say("pause", f"{_names(targets)} for {_STOPPED_SECONDS:.0f} s")
        for target in targets:
            self._cluster.processes.send(target.name, signal.SIGSTOP)
        time.sleep(_STOPPED_SECONDS)
        for target in targets:
            self._cluster.processes.send(target.name, signal.SIGCONT)

    def _fill_disk(self) -> None:
        disks = self._cluster.disks
        running = {f"r{t.host.removeprefix('replica')}-{t.partition}" for t in self._cluster.shards()}
        folder = self._rng.choice([folder for folder in disks.folders if folder.name in running])
        seconds = self._rng.uniform(*_FULL_SECONDS)
        self._say("full-disk", f"{folder.name} for {seconds:.1f} s")
        disks.fill(folder)
        time.sleep(seconds)
        disks.free(folder)

    def _shift_clock(self) -> None:
        """Shifts the clock of a coordinator or a shard. It stays shifted until the next fault of this kind."""
        among = self._rng.choice((self._cluster.coordinators(), self._cluster.shards()))
        target = self._rng.choice(among)
        offset = self._rng.choice((*_CLOCK_OFFSETS_SECONDS, *_CLOCK_OFFSETS_SECONDS, 0.0))
        self._say("clock", f"{target.name} restarted with its clock shifted by {offset:+.0f} s")
        self._cluster.restart(target.name, offset)

    def _cut(self, both_ways: bool) -> None:
        pairs = [pair for pair in itertools.permutations(self._cluster.network.hosts, 2) if has_traffic(*pair)]
        sender, receiver = self._rng.choice(pairs)
        seconds = self._rng.uniform(*_CUT_SECONDS)
        kind, arrow = ("cut", "<->") if both_ways else ("one-way-cut", "->")
        self._say(kind, f"{sender} {arrow} {receiver} for {seconds:.1f} s")
        network = self._cluster.network
        network.cut(sender, receiver)
        if both_ways:
            network.cut(receiver, sender)
        time.sleep(seconds)
        network.heal()

    def _restart_host(self) -> None:
        """Restarts the processes of one replica index, or the coordinators, one at a time, each only after the
        previous one serves again."""
        everything = self._cluster.everything()
        group = self._rng.choice(sorted({_restart_group(target) for target in everything}))
        targets = [target for target in everything if _restart_group(target) == group]
        self._say("rolling-restart", f"{len(targets)} processes of {group}")
        for target in targets:
            self._cluster.restart(target.name)
            if not self._cluster.wait_serving(_RESTART_PATIENCE_SECONDS):
                self._log.say(f"not serving after a restart of {target.name}:\n{self._cluster.describe()}")


def _restart_group(target: Target) -> str:
    """Returns the replica index, "coordinator" or "encoder"."""
    return target.host if target.partition is not None else target.host.rstrip("0123456789")


def _names(targets: list[Target]) -> str:
    return ", ".join(target.name for target in targets)
