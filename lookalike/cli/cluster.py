"""Owns `lookalike up`, `status`, `rebalance status` and `drain`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lookalike.cli import view
from lookalike.cli.options import DEFAULT_SERVER, Json, Server, Timeout, connect, print_json
from lookalike.client.endpoints import addresses_of
from lookalike.files.watched import FileWatch
from lookalike.model.errors import CannotStart

if TYPE_CHECKING:
    from lookalike.local.supervisor import Supervisor


def up(
    config: Annotated[Path, typer.Option(help="The cluster's config file.")] = Path("deploy/local.yaml"),
    data: Annotated[
        Path | None, typer.Option(help="Folder for data, logs and pids; the config's shard.data by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Start a local cluster and run it until Ctrl-C, SIGTERM or the terminal closes.

    Prints one line when the cluster is ready: "ready: grpc ADDRESS web URL"."""
    try:
        from lookalike.local.supervisor import Supervisor
        from lookalike.server.config import load_config
    except ModuleNotFoundError as error:
        raise CannotStart(f"up: needs {error.name}; run pip install '.[all]' in the checkout") from None
    watch = FileWatch([config])
    loaded = load_config(config)
    folder = (data or loaded.shard.data).absolute()
    supervisor = Supervisor(loaded, folder, lambda line: print(line, file=sys.stderr, flush=True))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: supervisor.ask_to_stop())
    print(f"starting {loaded.partitions} partitions; logs in {folder / 'logs'}", file=sys.stderr, flush=True)
    try:
        supervisor.launch()
        supervisor.wait_ready()
        if supervisor.stopping:
            return
        with _following(config, watch, supervisor):
            grpc_address, web = loaded.coordinator.listen, loaded.web_url
            if as_json:
                print_json({"ready": {"grpc": grpc_address, "web": web}})
            else:
                print(f"ready: grpc {grpc_address} web {web}")
            sys.stdout.flush()
            supervisor.watch()
    finally:
        supervisor.stop()


@contextlib.contextmanager
def _following(path: Path, watch: FileWatch, supervisor: Supervisor) -> Iterator[None]:
    """While the `with` block runs, reloads the config on SIGHUP and whenever `watch` sees a change. Stops the
    cluster if SIGHUP means that the terminal was closed."""
    from lookalike.server.config import CONFIG_POLL_SECONDS, content_of, load_config

    # Not threading.Event: a signal handler that interrupts `set` or `wait` would deadlock on the event's lock.
    requests: queue.SimpleQueue[Literal["reload", "end"]] = queue.SimpleQueue()
    had_terminal = os.isatty(2)

    def hung_up(*_: object) -> None:
        if had_terminal and not os.isatty(2):
            supervisor.ask_to_stop()
        else:
            requests.put("reload")

    signal.signal(signal.SIGHUP, hung_up)

    def follow() -> None:
        while True:
            request = None
            with contextlib.suppress(queue.Empty):
                request = requests.get(timeout=CONFIG_POLL_SECONDS)
            if request == "end":
                return
            try:
                # An empty file is ignored: it would mean the default config, and an editor may truncate a file
                # before it writes the new text.
                if content_of(path) != b"" and (watch.changed() or request == "reload"):
                    supervisor.reload(load_config(path))
            except CannotStart as error:
                print(f"the config is not applied: {error}", file=sys.stderr, flush=True)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        requests.put("end")
        thread.join()


def status(
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(help="Seconds between refreshes with --watch.", min=0.1)] = 2.0,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show partitions, replicas, encoders and collections. The exit code is 1 if a replica or an encoder does
    not serve."""
    with connect(server, timeout) as client:
        if watch:
            view.watch(client, len(addresses_of(server)), interval, as_json)
            return
        answer = client.status()
    if as_json:
        print_json(dataclasses.asdict(answer))
    else:
        view.console().print(view.status_view(answer))
    serving = all(replica.state == "serving" for part in answer.partitions for replica in part.replicas)
    if not serving or any(encoder.state == "unavailable" for encoder in answer.all_encoders):
        raise typer.Exit(1)


rebalance = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Show how records move between partitions."
)


@rebalance.callback()
def _rebalance() -> None:
    """Show how records move between partitions. They move automatically when the config's `partitions` changes."""


@rebalance.command("status")
def rebalance_status(server: Server = DEFAULT_SERVER, timeout: Timeout = 10.0, as_json: Json = False) -> None:
    """Show how many slots still have to move to match the config."""
    with connect(server, timeout) as client:
        answer = client.status()
    if as_json:
        parts = [
            {name: getattr(part, name) for name in ("partition", "slots", "target_slots", "removable")}
            for part in answer.partitions
        ]
        print_json({**dataclasses.asdict(answer.rebalance), "by_partition": parts})
        return
    view.console().print(view.rebalance_view(answer))


def drain(
    partition: Annotated[int, typer.Argument(help="The partition's number, from 0.", min=0)],
    undo: Annotated[bool, typer.Option("--undo", help="Give the partition its share of records again.")] = False,
    server: Server = DEFAULT_SERVER,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Move all records off a partition, for maintenance. Returns at once; `rebalance status` shows the
    progress."""
    with connect(server, timeout) as client:
        slots = client.drain(partition, undo=undo)
    if as_json:
        print_json({"partition": partition, "slots": slots, "drained": not undo})
    else:
        what = "gets its share again" if undo else "is being drained"
        print(f"partition {partition} {what}; it holds {slots} slots now")
