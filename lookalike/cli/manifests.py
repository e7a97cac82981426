"""Owns `lookalike manifests`: generates the shards.yaml of a deployment folder from its lookalike.yaml."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.options import connect
from lookalike.local.manifests import CONFIG_FILE, SHARDS_FILE, Origin, save, written
from lookalike.model.errors import CannotStart, InvalidRequest


def manifests(
    folder: Annotated[Path, typer.Argument(help="A folder with lookalike.yaml and shards.yaml.")],
    server: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A coordinator that knows which removed partitions are empty; those are omitted.",
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if shards.yaml is not current.")
    ] = False,
) -> None:
    """Generate a deployment's shards.yaml after a change of `partitions` or `replicas` in its lookalike.yaml.

    A removed partition stays until a coordinator (--server) reports that it is empty, because stopping it earlier
    would lose records that it has not handed over."""
    try:
        from lookalike.server.config import load_config
    except ModuleNotFoundError as error:
        raise CannotStart(f"manifests: needs {error.name}; run pip install '.[server]' in the checkout") from None
    config = load_config(folder / CONFIG_FILE, environment={})
    target = folder / SHARDS_FILE
    origin = Origin.read(target)
    held = origin.partitions if server is None else _held(server)
    partitions = max(config.partitions, min(held, origin.partitions))
    template = folder / origin.template
    try:
        text = template.read_text(encoding="utf-8")
    except OSError as error:
        raise CannotStart(f"manifests: {template} cannot be read: {error.strerror}") from None
    content = written(origin.template, text, partitions, config.replicas)
    if check and content != target.read_text(encoding="utf-8"):
        raise InvalidRequest(f"{target} is not what {CONFIG_FILE} asks for; run `lookalike manifests {folder}`")
    if not check:
        save(target, content)
    print(f"{target}: {partitions} partitions, {config.replicas} replicas")
    if partitions > config.partitions:
        print(
            f"partitions {config.partitions}..{partitions - 1} stay until they have handed over their records;"
            " then run this again with --server",
            file=sys.stderr,
        )
    if config.replicas < origin.replicas - 1:
        print(
            f"replicas go from {origin.replicas} to {config.replicas} at once: a write stored only on the removed"
            " replicas would be lost; remove one at a time, and wait until `lookalike status` shows no lag",
            file=sys.stderr,
        )


def _held(server: str) -> int:
    """The number of partitions up to the last one that is not empty."""
    with connect(server) as client:
        found = client.status().partitions
    return max((part.partition + 1 for part in found if not part.removable), default=0)
