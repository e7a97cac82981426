"""Runs `python -m benchmarks NAME [options]`: prints one JSON line per figure. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import (
    codes,
    connections,
    dedup,
    demo,
    duplicates,
    encoder,
    fusion,
    ingest,
    observe,
    replicas,
    scale,
    scroll,
    search,
    system,
)
from shard.bench.timing import processor

BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "codes": lambda options: codes.measure(min(options.rows, codes.ROWS)),
    "connections": lambda options: connections.measure(options.rows, options.seconds, options.rounds),
    "dedup": lambda options: dedup.measure(min(options.rows, dedup.ROWS)),
    "demo": lambda options: demo.measure(options.images),
    "duplicates": lambda options: duplicates.measure(options.images, options.originals),
    "encoder": lambda options: _in_folder(lambda work: encoder.measure(options.images, work)),
    "fusion": lambda options: fusion.measure(options.images),
    "ingest": lambda options: ingest.measure(options.images),
    "observe": lambda options: observe.measure(options.seconds, options.rounds),
    "replicas": lambda options: replicas.measure(options.rows, options.seconds),
    "scale": lambda options: scale.measure(options.millions, options.plots),
    "scroll": lambda options: scroll.measure(options.rows, options.rounds),
    "search": lambda options: search.measure(options.images),
    "system": lambda options: system.measure(options.rows, options.seconds, options.rounds),
}


def _in_folder(measure: Callable[[Path], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from measure(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures whole systems and prints one JSON line per figure. See benchmarks/README.md.",
    )
    parser.add_argument(
        "name", nargs="?", choices=[*BENCHMARKS, "all"], default="all", help="the benchmark to run (default: all)"
    )
    parser.add_argument("--images", type=Path, help="folder of photographs (default: bundled ones)")
    parser.add_argument("--originals", type=int, help="pictures that duplicates edits (default: all)")
    load = parser.add_argument_group("codes, connections, dedup, observe, replicas, scroll and system")
    load.add_argument("--rows", type=int, default=system.ROWS, help="codes in each cluster (default: %(default)s)")
    load.add_argument(
        "--seconds", type=float, default=system.SECONDS, help="seconds of load per round (default: %(default)s)"
    )
    load.add_argument("--rounds", type=int, default=system.ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument(
        "--millions", type=int, default=10, help="rows of scale, in millions (default: %(default)s)"
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="folder for the plot of scale (default: none)")
    arguments = parser.parse_args()
    names = list(BENCHMARKS) if arguments.name == "all" else [arguments.name]
    print(
        json.dumps({"machine": platform.machine(), "processor": processor(), "python": platform.python_version()})
    )
    for name in names:
        for figure in BENCHMARKS[name](arguments):
            print(json.dumps({"benchmark": name, **figure}), flush=True)


if __name__ == "__main__":
    main()
