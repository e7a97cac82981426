"""`python -m benchmarks NAME [--images DIR]`: measure, print a JSON line per figure. See README.md."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import demo, fusion, ingest, search

BENCHMARKS: dict[str, Callable[[Path | None], Iterator[dict[str, Any]]]] = {
    "demo": demo.measure,
    "fusion": fusion.measure,
    "ingest": ingest.measure,
    "search": search.measure,
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=[*BENCHMARKS, "all"], default="all")
    parser.add_argument("--images", type=Path, help="a folder of photographs; the bundled ones by default")
    arguments = parser.parse_args()
    chosen = list(BENCHMARKS) if arguments.name == "all" else [arguments.name]
    print(
        json.dumps({"machine": platform.machine(), "processor": _processor(), "python": platform.python_version()})
    )
    for name in chosen:
        for figure in BENCHMARKS[name](arguments.images):
            print(json.dumps({"benchmark": name, **figure}), flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
