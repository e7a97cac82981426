"""Owns `lookalike keys`: makes, lists, rotates and removes the API keys of a file. Coordinators whose config names
the file (security.keys) take a change over within seconds, without a restart."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lookalike.cli.options import Json, print_json
from lookalike.model.errors import CannotStart, InvalidRequest
from lookalike.server.security.keys import KeyRing, describe, load_keys, parse_grant, save_keys

_TEN_YEARS = 10 * 365 * 24

app = typer.Typer(no_args_is_help=True, help="API keys: who may search, write or administer which collections.")

File = Annotated[Path, typer.Option("--file", "-f", envvar="LOOKALIKE_KEYS", help="The key file.", metavar="FILE")]
Name = Annotated[str, typer.Argument(help="Who holds the key.")]


@app.command()
def add(
    name: Name,
    file: File,
    grant: Annotated[
        list[str],
        typer.Option(
            help="search, write or admin, each including those before it; repeat it for several collections, leave"
            " the collection out for every one.",
            metavar="ROLE[:COLLECTION]",
        ),
    ],
    rate: Annotated[
        float | None, typer.Option(min=0.001, help="Queries, records and keys that it may send a second.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once. The file is made if it is not there."""
    with _alone(file):
        ring = _load(file) if file.exists() else KeyRing()
        ring, issued = ring.added(name, dict(map(parse_grant, grant)), rate)
        save_keys(file, ring)
    _print_issued(name, issued, as_json)


@app.command("list")
def list_keys(file: File, as_json: Json = False) -> None:
    """Show who holds keys and what for."""
    described = [describe(key, time.time()) for key in _load(file).keys.values()]
    if as_json:
        print_json(described)
        return
    for key in described:
        grants = ", ".join(f"{role}:{collection}" for collection, role in key["grants"].items())
        rate = f", {key['rate']:g} a second" if key["rate"] else ""
        ends = "".join(f", one secret until {one['expires']}" for one in key["secrets"] if one["expires"])
        print(f"{key['name']}  {grants}{rate}{ends}")


@app.command()
def rotate(
    name: Name,
    file: File,
    keep_hours: Annotated[
        float, typer.Option(min=0, max=_TEN_YEARS, help="How long the old key still works.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Give a holder a new key and print it; the old one works for a while beside it."""
    with _alone(file):
        ring, issued = _load(file).rotated(name, keep_hours * 3600, time.time())
        save_keys(file, ring)
    _print_issued(name, issued, as_json)


@app.command()
def remove(
    name: Name,
    file: File,
    open_to_everyone: Annotated[
        bool, typer.Option("--open-to-everyone", help="Remove the last key, too: nobody needs one then.")
    ] = False,
) -> None:
    """Take a holder's keys back, at once."""
    with _alone(file):
        ring = _load(file).removed(name)
        if not ring.keys and not open_to_everyone:
            raise InvalidRequest(
                f"name: {name!r} has the last key; without it everyone may do everything. Add another first, or"
                " say --open-to-everyone"
            )
        save_keys(file, ring)


@contextlib.contextmanager
def _alone(file: Path) -> Iterator[None]:
    """Of two that change the file at once, the second reads what the first wrote. Its folder is locked, for the
    file itself is replaced."""
    try:
        folder = os.open(file.parent, os.O_RDONLY)
    except OSError as error:
        raise InvalidRequest(f"file: {file} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _load(file: Path) -> KeyRing:
    try:
        return load_keys(file)
    except CannotStart as error:
        raise InvalidRequest(error.message.replace("config: security.keys", "file")) from None


def _print_issued(name: str, issued: str, as_json: bool) -> None:
    if as_json:
        print_json({"name": name, "key": issued})
        return
    print(issued)
    print("Keep it: only its hash is stored.", file=sys.stderr)
