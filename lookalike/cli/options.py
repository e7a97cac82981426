"""Owns the options that commands share, how commands connect to the cluster, and their JSON output."""

from __future__ import annotations

import contextvars
import dataclasses
import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from lookalike.client.calls import DEFAULT_TIMEOUT_SECONDS
from lookalike.client.sync_client import Client
from lookalike.model.errors import InvalidRequest
from lookalike.transport.tls import Tls

Server = Annotated[
    str,
    typer.Option(
        envvar="LOOKALIKE_SERVER",
        help="A coordinator's gRPC address, or several separated by commas.",
        metavar="HOST:PORT",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Timeout = Annotated[float, typer.Option(help="Timeout in seconds.", min=0.001)]
CollectionName = Annotated[str, typer.Option("--collection", "-c", help="The collection's name.")]

DEFAULT_SERVER = "127.0.0.1:7700"
DEFAULT_COLLECTION = "images"


@dataclasses.dataclass(frozen=True, slots=True)
class _Credentials:
    api_key: str | None
    tls: Tls | bool


_NOTHING = _Credentials(None, False)
_given: contextvars.ContextVar[_Credentials] = contextvars.ContextVar("given", default=_NOTHING)


def _show_version(requested: bool) -> None:
    if requested:
        print(f"lookalike {metadata.version('lookalike')}")
        raise typer.Exit


def credentials(
    tls: Annotated[bool, typer.Option("--tls", envvar="LOOKALIKE_TLS", help="Use TLS.")] = False,
    ca: Annotated[
        Path | None, typer.Option(envvar="LOOKALIKE_CA", help="Trust this CA (PEM); implies TLS.", metavar="FILE")
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="LOOKALIKE_CERTIFICATE", help="Client certificate (PEM).", metavar="FILE"),
    ] = None,
    private_key: Annotated[
        Path | None,
        typer.Option(envvar="LOOKALIKE_PRIVATE_KEY", help="Key of the client certificate (PEM).", metavar="FILE"),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(envvar="LOOKALIKE_SERVER_NAME", help="Server name to verify.", metavar="NAME"),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(envvar="LOOKALIKE_API_KEY_FILE", help="File that contains the API key.", metavar="FILE"),
    ] = None,
    api_key: Annotated[str | None, typer.Option(envvar="LOOKALIKE_API_KEY", hidden=True)] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Search millions to billions of images by similarity.

    Give an API key in the environment variable LOOKALIKE_API_KEY or in a file. There is no option for the key
    itself, because other users can see command lines."""
    settings: Tls | bool = tls
    if ca or certificate or private_key or server_name:
        settings = Tls(ca, certificate, private_key, server_name)
    _given.set(_Credentials(_read_key(api_key_file) if api_key_file else api_key, settings))


def tls_settings() -> Tls | None:
    """The TLS settings of the command line and the environment; None for plain text."""
    tls = _given.get().tls
    return tls if isinstance(tls, Tls) else Tls() if tls else None


def connect(server: str, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> Client:
    """Opens a client with the API key and TLS settings of the command line and the environment."""
    given = _given.get()
    return Client(server, timeout=timeout, api_key=given.api_key, tls=given.tls)


def _read_key(file: Path) -> str:
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(
            f"api-key-file: {file} cannot be read ({error}); name a file that contains the key as `lookalike keys`"
            " printed it"
        ) from None


def print_json(document: Any) -> None:
    """Prints a document in one write, so that `| grep -q` does not close the pipe before all is written."""
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=2) + "\n")
