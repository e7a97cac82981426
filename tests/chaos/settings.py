"""Owns the options of a run and their command line."""

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
PLANTS = ("lose", "resurrect", "duplicate", "stale", "change")
WriteQuorum = Literal["one", "majority", "all"]
_DESCRIPTION = "Injects random faults into a cluster under load and checks every answer."
MAX_REPLICAS = 3
MAX_PARTITIONS = 6
MAX_COORDINATORS = 2


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """The options of a run.

    Attributes:
        kinds: The faults to inject.
        data: Folder for data and logs, or None for a temporary one.
        tolerate_late: See `tests.chaos.checker`.
    """

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
        """Returns whether an acknowledged write is on every replica, so that no read may be stale."""
        quorum = {"one": 1, "majority": self.replicas // 2 + 1, "all": self.replicas}[self.write_quorum]
        return quorum == self.replicas

    @property
    def quorum_is_fresh(self) -> bool:
        """Returns whether a quorum read sees every acknowledged write."""
        return self.acknowledged_by_all or self.write_quorum != "one"


def parse_settings(arguments: Sequence[str] | None = None) -> Settings:
    """Parses the command line; exits with an error if it is invalid."""
    options = _parser().parse_args(arguments)
    excluded = set(_kinds(options.without))
    kinds = tuple(kind for kind in _kinds(options.faults) or FAULT_KINDS if kind not in excluded)
    return Settings(
        options.seconds, options.seed, options.partitions, options.replicas, options.coordinators,
        options.write_quorum, options.encoder, not options.no_network, kinds, options.plant, options.data,
        options.tolerate_late,
    )  # fmt: skip


def _kinds(text: str) -> list[str]:
    kinds = [kind for kind in text.split(",") if kind]
    if unknown := sorted(set(kinds) - set(FAULT_KINDS)):
        raise SystemExit(f"error: unknown fault {', '.join(unknown)}; use {', '.join(FAULT_KINDS)}")
    return kinds


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=_DESCRIPTION)
    add = parser.add_argument
    add("--seconds", type=float, default=60.0, help="duration of the fault injection (default: 60)")
    add("--seed", type=int, default=1, help="random seed (default: 1)")
    add(
        "--partitions", type=int, choices=range(1, MAX_PARTITIONS + 1), default=2,
        help="initial number of partitions (default: 2)",
    )  # fmt: skip
    add("--replicas", type=int, choices=range(1, MAX_REPLICAS + 1), default=1)
    add("--coordinators", type=int, choices=range(1, MAX_COORDINATORS + 1), default=2)
    add("--write-quorum", choices=("one", "majority", "all"), default="majority")
    add("--encoder", action="store_true", help="also run the encoder, and write and search for images")
    add("--no-network", action="store_true", help="run everything on loopback, without network faults")
    add("--faults", default="", help=f"inject only these faults, separated by commas: {', '.join(FAULT_KINDS)}")
    add("--without", default="", help="faults to exclude, separated by commas")
    add("--plant", choices=PLANTS, help="plant a violation that the checker must find")
    add("--data", type=Path, help="folder for data and logs, kept after the run (default: a temporary one)")
    add(
        "--tolerate-late",
        action="store_true",
        help="permit a write that timed out to take effect after its retry was acknowledged",
    )
    return parser
