"""Owns the options of a run, and how the command line names them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

FAULT_KINDS = (
    "kill-shard",
    "kill-coordinator",
    "kill-encoder",
    "pause",
    "full-disk",
    "clock",
    "cut",
    "one-way-cut",
    "reshard",
    "rolling-restart",
)
PLANTS = ("lose", "resurrect", "duplicate", "stale")
WriteQuorum = Literal["one", "majority", "all"]
MAX_REPLICAS = 3
MAX_PARTITIONS = 6
MAX_COORDINATORS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What a run does. kinds: the faults to draw from. data: where the cluster keeps everything, or None for a
    folder that goes with the run. tolerate_late: see `tests.chaos.checker`."""

    seconds: float
    seed: int
    partitions: int = 2
    replicas: int = 1
    coordinators: int = 2
    write_quorum: WriteQuorum = "majority"
    has_encoder: bool = False
    has_network: bool = True
    kinds: tuple[str, ...] = FAULT_KINDS
    plant: str | None = None
    data: Path | None = None
    tolerate_late: bool = False

    @property
    def acknowledged_by_all(self) -> bool:
        """Whether an acknowledged write is on every replica, so that no read may be stale."""
        quorum = {"one": 1, "majority": self.replicas // 2 + 1, "all": self.replicas}[self.write_quorum]
        return quorum == self.replicas

    @property
    def quorum_is_fresh(self) -> bool:
        """Whether a read from a majority meets every acknowledged write."""
        return self.acknowledged_by_all or self.write_quorum != "one"


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """The settings that a command line asks for; ends the program when it makes no sense."""
    given = _parser().parse_args(arguments)
    left_out = set(_kinds(given.without))
    kinds = tuple(kind for kind in _kinds(given.faults) or FAULT_KINDS if kind not in left_out)
    return Settings(
        given.seconds, given.seed, given.partitions, given.replicas, given.coordinators, given.write_quorum,
        given.encoder, not given.no_network, kinds, given.plant, given.data, given.tolerate_late,
    )  # fmt: skip


def _kinds(text: str) -> list[str]:
    kinds = [kind for kind in text.split(",") if kind]
    if unknown := sorted(set(kinds) - set(FAULT_KINDS)):
        raise SystemExit(f"error: no such fault: {', '.join(unknown)}; there are {', '.join(FAULT_KINDS)}")
    return kinds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="how long to break things (default: 60)")
    add("--seed", type=int, default=1, help="of every choice that is made (default: 1)")
    add("--partitions", type=int, choices=range(1, MAX_PARTITIONS + 1), default=2, help="to begin with")
    add("--replicas", type=int, choices=range(1, MAX_REPLICAS + 1), default=1)
    add("--coordinators", type=int, choices=range(1, MAX_COORDINATORS + 1), default=2)
    add("--write-quorum", choices=("one", "majority", "all"), default="majority")
    add("--encoder", action="store_true", help="run the encoder too: images are written and searched for")
    add("--no-network", action="store_true", help="everything on loopback, and no connection is cut")
    add("--faults", default="", help=f"only these, by comma: {', '.join(FAULT_KINDS)}")
    add("--without", default="", help="not these faults, by comma")
    add("--plant", choices=PLANTS, help="tell a lie, to see that it is found")
    add("--data", type=Path, help="a folder for data and logs, which stays; else a temporary one")
    add(
        "--tolerate-late",
        action="store_true",
        help="a write that timed out may take effect after its repetition was acknowledged",
    )
    return parser
