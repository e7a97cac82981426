"""Owns the output of `lookalike status`: a cluster's state as tables and lines, once or repeatedly."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lookalike.cli.rates import CoordinatorRates
from lookalike.client.sync_client import Client
from lookalike.model.errors import LookalikeError
from lookalike.model.status import DEFAULT_ENCODER, ClusterStatus, EncoderStatus, PartitionStatus

_PIPED_WIDTH = 160
_STYLES = {"serving": "green", "recovering": "yellow", "unavailable": "bold red"}


def console() -> Console:
    """Returns a console on standard output. It is wide enough for long lines if the output is not a terminal."""
    return Console(width=None if sys.stdout.isatty() else _PIPED_WIDTH, soft_wrap=True, highlight=False)


def status_view(answer: ClusterStatus, *totals: str) -> RenderableType:
    """Renders a status. `totals` are lines to show above the table; they may be wider than the terminal."""
    states = [replica.state for part in answer.partitions for replica in part.replicas]
    serving = states.count("serving")
    lines: list[RenderableType] = [
        Text(f"cluster {answer.cluster}, version {answer.version}"),
        Text(f"{serving} of {len(states)} replicas serve", "" if serving == len(states) else "bold red"),
        *map(Text, totals),
        _replicas(answer),
    ]
    lines += [
        Text(f"partition {part.partition}, replica {replica.replica}: {damage}", "bold red")
        for part in answer.partitions
        for replica in part.replicas
        for damage in replica.damaged
    ]
    lines += map(_encoder_line, (answer.encoder, *answer.encoders))
    lines += [
        Text(
            f"collection {collection.name}: {collection.rows:,} rows, {collection.code_space.bits} bits,"
            f" {collection.code_space.fingerprint[:12]}"
        )
        for collection in answer.collections
    ]
    return Group(*lines)


def _encoder_line(encoder: EncoderStatus) -> Text:
    name = "" if encoder.name == DEFAULT_ENCODER else f"{encoder.name}:"
    space, detail = encoder.code_space, encoder.reason
    if space is not None:
        detail = f"{space.backbone}, {space.hash_method}, {space.bits} bits, {space.fingerprint[:12]}"
    return Text(" ".join(filter(None, ("encoder", name, encoder.address, encoder.state, detail))))


def _replicas(answer: ClusterStatus) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("partition", "replica", "address", "state", "slots", "rows", "lag", "memory"):
        # On a narrow terminal only the state is wrapped: the reason in it may be long.
        table.add_column(heading, no_wrap=heading != "state")
    for part in answer.partitions:
        for replica in part.replicas:
            table.add_row(
                str(part.partition), str(replica.replica), replica.address,
                Text(
                    replica.state + (f": {replica.reason}" if replica.reason else ""),
                    _STYLES.get(replica.state, ""),
                ),
                str(part.slots), f"{replica.rows:,}", f"{replica.lag_ms / 1000:.1f} s",
                f"{replica.memory_bytes / 2**20:,.1f} MiB",
            )  # fmt: skip
    return table


def rebalance_view(answer: ClusterStatus) -> RenderableType:
    """Renders the pending slot moves as one object, so that `| grep -q` does not close the pipe before all is
    written."""
    table = Table("partition", "slots", "of", "", box=None, padding=(0, 2))
    for part in answer.partitions:
        table.add_row(
            str(part.partition), str(part.slots), str(part.target_slots),
            "empty: may be removed" if part.removable else _awaited(part),
        )  # fmt: skip
    return Group(Text(rebalance_line(answer)), table)


def _awaited(part: PartitionStatus) -> str:
    """Names the replicas that block slots from leaving a partition: a move is done when all replicas confirm
    it."""
    silent = [replica for replica in part.replicas if replica.state == "unavailable"]
    if part.slots <= part.target_slots or not silent:
        return ""
    return "waits for " + ", ".join(f"replica {replica.replica} at {replica.address}" for replica in silent)


def rebalance_line(answer: ClusterStatus) -> str:
    found = answer.rebalance
    drained = f", drained: {', '.join(map(str, found.drained))}" if found.drained else ""
    is_balanced = not found.slots_to_move and not found.slots_unserved
    state = "balanced" if is_balanced else f"{found.slots_to_move} slots to move"
    return (
        f"{state}, {found.slots_moving} moving, {found.slots_unserved} unserved;"
        f" {found.partitions} partitions (epoch {found.epoch}){drained}"
    )


def watch(client: Client, coordinators: int, seconds: float, as_json: bool) -> None:
    """Shows the status every `seconds` until Ctrl-C: in place on a terminal, otherwise one after the
    other. `coordinators` is the number of coordinators, which answer in turn."""
    # SIGTERM, like Ctrl-C, raises KeyboardInterrupt, so the terminal is restored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rates = CoordinatorRates(coordinators)
    try:
        if as_json:
            for answer in _answers(client, seconds):
                print(json.dumps(_as_json(answer, rates)), flush=True)
            return
        out = console()
        views = _views(_answers(client, seconds), rates)
        if not out.is_terminal:
            for view in views:
                out.print(view)
                sys.stdout.flush()
            return
        with Live(console=out, auto_refresh=False, screen=True) as live:
            for view in views:
                live.update(view, refresh=True)
    except KeyboardInterrupt:
        return


def _as_json(answer: ClusterStatus | LookalikeError, rates: CoordinatorRates) -> dict[str, Any]:
    if isinstance(answer, LookalikeError):
        return {"error": answer.message}
    found = rates.add(answer.coordinator) if answer.coordinator is not None else None
    return {**dataclasses.asdict(answer), "rates": found and dataclasses.asdict(found)}


def _answers(client: Client, seconds: float) -> Iterator[ClusterStatus | LookalikeError]:
    while True:
        began = time.monotonic()
        try:
            yield client.status()
        except LookalikeError as error:
            yield error
        time.sleep(max(0.0, began + seconds - time.monotonic()))


def _views(answers: Iterator[ClusterStatus | LookalikeError], rates: CoordinatorRates) -> Iterator[RenderableType]:
    """Renders each response, with the rates of new records and of searches since the previous response."""
    last: tuple[float, int] | None = None
    for answer in answers:
        if isinstance(answer, LookalikeError):
            yield Group(Text(time.strftime("%H:%M:%S")), Text(f"no answer: {answer.message}", "bold red"))
            continue
        now, rows = time.monotonic(), sum(collection.rows for collection in answer.collections)
        rate = "" if last is None else f", {(rows - last[1]) / (now - last[0]):+,.0f} a second"
        last = now, rows
        if answer.coordinator is not None:
            rates.add(answer.coordinator)
        yield status_view(
            answer,
            rebalance_line(answer),
            *rates.lines(),
            f"{rows:,} rows in total{rate}; {time.strftime('%H:%M:%S')}, Ctrl-C ends",
        )
