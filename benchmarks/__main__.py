"""`python -m benchmarks NAME [options]`: measure, print a JSON line per figure. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import codes, connections, demo, encoder, fusion, ingest, observe, replicas, search, system
from shard.bench.timing import processor

BENCHMARKS: dict[str, Callable[[argparse.Namespace], Iterator[dict[str, Any]]]] = {
    "codes": lambda given: codes.measure(min(given.rows, codes.ROWS)),
    "connections": lambda given: connections.measure(given.rows, given.seconds, given.rounds),
    "demo": lambda given: demo.measure(given.images),
    "encoder": lambda given: _in_folder(lambda work: encoder.measure(given.images, work)),
    "fusion": lambda given: fusion.measure(given.images),
    "ingest": lambda given: ingest.measure(given.images),
    "observe": lambda given: observe.measure(given.seconds, given.rounds),
    "replicas": lambda given: replicas.measure(given.rows, given.seconds),
    "search": lambda given: search.measure(given.images),
    "system": lambda given: system.measure(given.rows, given.seconds, given.rounds),
}


def _in_folder(measure: Callable[[Path], Iterator[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        yield from measure(Path(folder))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, "all"], default="all")
    parser.add_argument("--images", type=Path, help="a folder of photographs; the bundled ones by default")
    of_system = parser.add_argument_group("connections, observe, replicas and system")
    of_system.add_argument("--rows", type=int, default=system.ROWS, help="codes in each cluster")
    of_system.add_argument("--seconds", type=float, default=system.SECONDS, help="of each load in each round")
    of_system.add_argument("--rounds", type=int, default=system.ROUNDS)
    arguments = parser.parse_args()
    chosen = list(BENCHMARKS) if arguments.name == "all" else [arguments.name]
    print(
        json.dumps({"machine": platform.machine(), "processor": processor(), "python": platform.python_version()})
    )
    for name in chosen:
        for figure in BENCHMARKS[name](arguments):
            print(json.dumps({"benchmark": name, **figure}), flush=True)


if __name__ == "__main__":
    main()
