"""Owns `lookalike certificates`: makes the TLS files of a cluster from its config."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lookalike.model.errors import CannotStart, InvalidRequest


def certificates(
    folder: Annotated[Path, typer.Argument(help="Where to write; created if it does not exist.")],
    config: Annotated[Path, typer.Option(help="The cluster's config file.")] = Path("deploy/local.yaml"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", help="A further name or IP address, such as the coordinators' DNS name. Repeatable."
        ),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=3_650, help="How long the certificates are valid.")] = 397,
    renew: Annotated[
        bool, typer.Option("--renew", help="Replace the certificates; keep the authorities that sign them.")
    ] = False,
) -> None:
    """Make a certificate authority, a certificate for the cluster's processes with the hosts of its config, and a
    client certificate of an authority of its own. Existing files are not overwritten."""
    try:
        from lookalike.local.certificates import create, hosts_of
        from lookalike.local.certificates import renew as renew_certificates
        from lookalike.server.config import load_config
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"certificates: needs {error.name}; run pip install '.[certificates]' in the checkout"
        ) from None
    loaded = load_config(config)
    hosts = list(dict.fromkeys([*hosts_of(loaded), *(host or ())]))
    if not hosts:
        raise InvalidRequest(f"host: {config} names no host; name one with --host")
    make = renew_certificates if renew else create
    make(folder, loaded.cluster, hosts, days)
    print(f"{folder}: tls.crt for {', '.join(hosts)}; valid for {days} days")
