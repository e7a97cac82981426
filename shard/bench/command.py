"""Owns `lookalike bench`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.options import Json
from lookalike.model.errors import InvalidRequest
from shard.bench import filters, kernel, pages, report
from shard.bench.timing import Figure, machine

PARTS = (
    "scan",
    "k",
    "flood",
    "threads",
    "rows",
    "batch",
    "buckets",
    "filters",
    "pages",
    "asymmetric",
    "start",
    "processors",
)


def bench(
    part: Annotated[
        list[str] | None, typer.Argument(help=f"What to measure: {', '.join(PARTS)}. Default: all.")
    ] = None,
    bits: Annotated[str, typer.Option(help="Code widths to measure, separated by commas.")] = ",".join(
        map(str, kernel.WIDTHS)
    ),
    megabytes: Annotated[int, typer.Option(min=1, help="Megabytes of codes per width.")] = kernel.MEGABYTES,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds per measurement.")] = kernel.SECONDS,
    plots: Annotated[Path | None, typer.Option(help="Folder for PNG plots (needs matplotlib).")] = None,
    as_json: Json = False,
) -> None:
    """Benchmark the shard's search on this machine.

    Verifies the answers, then compares the speed with the memory bandwidth and, if installed, FAISS. `flood` scans
    equal codes only, `start` times a process's first search, `processors` compiles for older processors."""
    parts = part or list(PARTS)
    if unknown := [name for name in parts if name not in PARTS]:
        raise InvalidRequest(f"part: unknown value {unknown[0][:80]!r}; use {', '.join(PARTS)}")
    try:
        widths = [int(text) for text in bits.split(",")]
    except ValueError:
        raise InvalidRequest(f"bits: {bits[:80]!r} is not a list of numbers; separate them by commas") from None
    if wrong := [width for width in widths if not 64 <= width <= 8192 or width % 64]:
        raise InvalidRequest(f"bits: {wrong[0]} is not a multiple of 64 from 64 to 8192")
    kernel.check(widths)
    facts = machine()
    print(json.dumps(facts) if as_json else f"answers verified; {json.dumps(facts)}", flush=True)
    figures = []
    for figure in _measure(parts, widths, megabytes, seconds):
        figures.append(figure)
        print(report.line(figure), flush=True)
    if not as_json:
        report.show(figures)
    if plots is not None:
        for path in report.plot(figures, plots, str(facts["processor"])):
            if not as_json:
                print(path)


def _measure(parts: list[str], widths: list[int], megabytes: int, seconds: float) -> Iterator[Figure]:
    measured = {
        "scan": lambda: kernel.widths(widths, megabytes, seconds),
        "k": lambda: kernel.many_hits(widths, megabytes, seconds),
        "flood": lambda: kernel.flood(seconds),
        "threads": lambda: kernel.threads(megabytes, seconds),
        "rows": lambda: kernel.lengths(seconds),
        "batch": lambda: kernel.batches(megabytes, seconds),
        "buckets": lambda: kernel.buckets(seconds),
        "filters": lambda: filters.filtered(seconds),
        "pages": lambda: pages.paged(seconds),
        "asymmetric": lambda: kernel.asymmetric(widths, seconds),
        "start": kernel.starts,
        "processors": kernel.other_processors,
    }
    for name in parts:
        yield from measured[name]()
