"""Owns `lookalike manifests`: the shards of a deployment folder, written from the one cluster config in it."""

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
            metavar="HOST:PORT", help="Ask this coordinator which partitions are empty, and leave them out."
        ),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if shards.yaml is not up to date.")
    ] = False,
) -> None:
    """Write a deployment's shards anew after `partitions` or `replicas` has changed in its lookalike.yaml.

    A partition that the config has no more is kept until a coordinator (--server) says that it is empty: whoever
    stopped it earlier would take away records that it has not handed over."""
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
            f"partitions {config.partitions}..{partitions - 1} are kept until they have handed over their records;"
            " then run this again with --server",
            file=sys.stderr,
        )
    if config.replicas < origin.replicas - 1:
        print(
            f"replicas go from {origin.replicas} to {config.replicas} at once: a write that only those have"
            " that go is lost with them; lower them by one, and wait until `lookalike status` shows no lag",
            file=sys.stderr,
        )


def _held(server: str) -> int:
    """So many partitions there are up to the last that holds something."""
    with connect(server) as client:
        found = client.status().partitions
    return max((part.partition + 1 for part in found if not part.removable), default=0)
