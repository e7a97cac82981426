"""Owns the order of the demo's steps, and the text that the demo prints."""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lab.demo import run
from lab.demo.photographs import (
    HELD_OUT,
    ITS_PAIR,
    bundled_photographs,
    folder_photographs,
    held_out_photograph,
)
from lab.demo.sheet import write_sheet
from lookalike.cli.options import print_json
from lookalike.client.sync_client import Client
from lookalike.local.ephemeral import ephemeral_config
from lookalike.model.errors import LookalikeError
from lookalike.server.config import EncoderConfig

_SHOWN = 5
_PIPED_WIDTH = 140
_BRUTE_FORCE_K = 10


def run_demo(images: Path | None, keep: bool, output: Path, as_json: bool) -> None:
    """Runs the demo; see `lookalike demo --help`. Raises LookalikeError if an answer differs from brute force, or
    if the held-out half of the stereo pair does not find the other half first."""
    started = time.monotonic()
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        console.width = _PIPED_WIDTH
    photographs = bundled_photographs() if images is None else folder_photographs(images)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ended_by_signals())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lookalike-demo-")))
        config = ephemeral_config(folder / "cluster", run.PARTITIONS, EncoderConfig(), "demo")
        console.print(f"Starting {run.PARTITIONS} shards, an encoder on Ray and a coordinator on free ports …")
        supervisor = stack.enter_context(run.cluster(config, folder / "cluster"))
        written = run.write_index_views(photographs, folder / "index")
        questions = run.write_questions(photographs, folder / "queries")
        if images is None:
            questions.append(run.Question(held_out_photograph(), ITS_PAIR))
        supervisor.wait_ready()
        stack.enter_context(run.watched(supervisor))
        up_seconds = time.monotonic() - started
        console.print(
            f"Up after {up_seconds:.0f} s. Ingesting {written} views of {len(photographs)} photographs …"
        )
        address = config.coordinator.listen
        summary = sys.stderr if as_json else sys.stdout
        run.ingest(address, supervisor.config_file, folder / "index", folder / "report.jsonl", summary)
        with Client(address) as client:
            answers = run.ask(client, questions)
            records = run.fetch_all(client, folder / "index")
            equal = run.count_equal_to_brute_force(client, records, _BRUTE_FORCE_K)
        facts: dict[str, Any] = {
            "records": len(records),
            "partitions": run.PARTITIONS,
            "queries": len(questions),
            "first_is_right": sum(answer.is_right(0) for answer in answers),
            "precision_at_5": round(sum(answer.precision for answer in answers) / len(answers), 4),
            "random_queries": run.RANDOM_QUERIES,
            "equal_to_brute_force": equal,
            "stereo_pair_first": answers[-1].is_right(0) if images is None else None,
            "start_seconds": round(up_seconds, 1),
            "seconds": round(time.monotonic() - started, 1),
            "sheet": str(output),
        }
        lines = _sentences(facts)
        write_sheet(output, answers, folder / "index", lines)
        _print_some(console, answers)
        for name, value in lines:
            console.print(f"{name}: {value}")
        if as_json:
            print_json(facts)
        _require_right_answers(facts)
        if keep:
            console.print(f"ready: grpc {address} web {config.web_url}")
            console.print(
                f"Try: lookalike search --server {address} -c {run.COLLECTION} PICTURE. Ctrl-C ends the demo."
            )
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM end the demo as Ctrl-C does: the cluster is stopped and the folder removed. Both signals work
    even if a shell started the demo in the background, with SIGINT ignored."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _sentences(facts: dict[str, Any]) -> list[tuple[str, str]]:
    lines = [
        ("Index", f"{facts['records']} records on {facts['partitions']} shards"),
        (
            "Queries",
            f"{facts['queries']} images that are not in the index; for {facts['first_is_right']} of them,"
            " the nearest hit is a view of the same photograph",
        ),
        ("Precision@5", f"{facts['precision_at_5']:.3f} over all queries"),
        (
            "Exactness",
            f"{facts['equal_to_brute_force']} of {facts['random_queries']} random queries have the same answer as"
            " brute force, ties and order included",
        ),
    ]
    if facts["stereo_pair_first"] is not None:
        found = "is" if facts["stereo_pair_first"] else "is NOT"
        lines.append(
            (
                "Stereo pair",
                f"{HELD_OUT} was never indexed; {ITS_PAIR}, its other half, {found} found first",
            )
        )
    lines.append(("Time", f"{facts['seconds']} s, of which {facts['start_seconds']} s until the cluster was up"))
    lines.append(("Contact sheet", facts["sheet"]))
    return lines


def _print_some(console: Console, answers: list[run.Answered]) -> None:
    step = max(1, len(answers) // _SHOWN)
    chosen = [*answers[:-1:step][: _SHOWN - 1], answers[-1]]
    table = Table("query", *(f"#{rank}" for rank in range(1, run.TOP + 1)), box=None, padding=(0, 2, 0, 0))
    for answer in chosen:
        hits = [f"{hit.attributes.get('label', hit.key)} {hit.distance}" for hit in answer.result.hits]
        table.add_row(answer.question.title, *hits)
    console.print("\nThe five nearest records to some of the queries, with distances in bits:")
    console.print(table)
    console.print()


def _require_right_answers(facts: dict[str, Any]) -> None:
    if facts["equal_to_brute_force"] != facts["random_queries"]:
        raise LookalikeError("demo: some answers differ from the brute-force scan")
    if facts["stereo_pair_first"] is False:
        raise LookalikeError(f"demo: {HELD_OUT} does not find {ITS_PAIR} first")
