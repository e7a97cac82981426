"""Owns `lookalike targets`: writes the file from which Prometheus learns what to scrape, and keeps it current."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from lookalike.files.atomic import write_bytes
from lookalike.model.errors import CannotStart, InvalidRequest


def targets(
    file: Annotated[Path, typer.Argument(help="The file to write, which file_sd_configs names.")],
    config: Annotated[Path, typer.Option(help="The cluster's config file.")] = Path("deploy/local.yaml"),
    coordinator: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="A coordinator's metrics address; repeatable. The config's by default.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Keep running, and write the file again when the config changes.")
    ] = False,
) -> None:
    """Write the addresses of the cluster's metrics for Prometheus (file_sd_configs), from the cluster's config.

    Prometheus reads a changed file by itself, so that new shards are scraped after a change of `partitions`. With
    --follow, an invalid config is reported and changes nothing."""
    try:
        from lookalike.local.targets import file_sd
        from lookalike.server.config import ClusterConfig, load_config
        from lookalike.server.config_follower import ConfigFollower
    except ModuleNotFoundError as error:
        raise CannotStart(f"targets: needs {error.name}; run pip install '.[server]' in the checkout") from None

    def write(found: ClusterConfig) -> None:
        text = file_sd(found, coordinator or ())
        try:
            write_bytes(file, text.encode())
        except OSError as error:
            raise InvalidRequest(f"file: {file} cannot be written: {error.strerror}") from None
        print(f"{file}: {found.partitions} partitions, {found.replicas} replicas", flush=True)

    async def write_again(found: ClusterConfig) -> None:
        write(found)

    loaded = load_config(config)
    write(loaded)
    if follow:
        logging.basicConfig(stream=sys.stderr, format="%(message)s")
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(ConfigFollower(config, loaded, write_again).run())
