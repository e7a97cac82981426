"""Owns the options that commands share, and the two ways of printing a result: for people and as JSON."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

Server = Annotated[
    str,
    typer.Option(
        envvar="LOOKALIKE_SERVER",
        help="A coordinator's gRPC address, or several with commas between.",
        metavar="HOST:PORT",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
Timeout = Annotated[float, typer.Option(help="Seconds that the call may take.", min=0.001)]
CollectionName = Annotated[str, typer.Option("--collection", "-c", help="The collection's name.")]

DEFAULT_SERVER = "127.0.0.1:7700"
DEFAULT_COLLECTION = "images"


def print_json(document: Any) -> None:
    json.dump(document, sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")
