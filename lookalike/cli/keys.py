"""Owns `lookalike keys`: creates, lists, rotates and removes the API keys of a file. Coordinators whose config
names the file (security.keys) apply a change within seconds, without a restart."""

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

app = typer.Typer(no_args_is_help=True, help="Manage API keys and their permissions.")

File = Annotated[Path, typer.Option("--file", "-f", envvar="LOOKALIKE_KEYS", help="The key file.", metavar="FILE")]
Name = Annotated[str, typer.Argument(help="The name of the key's holder.")]


@app.command()
def add(
    name: Name,
    file: File,
    grant: Annotated[
        list[str],
        typer.Option(
            help="ROLE: search, write or admin; each includes those before it. Repeat the option for several"
            " collections; omit COLLECTION for all.",
            metavar="ROLE[:COLLECTION]",
        ),
    ],
    rate: Annotated[
        float | None,
        typer.Option(
            min=0.001, help="How many queries, records and keys of records the holder may send per second."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Create a key and print it; it cannot be shown again. Creates the file if it does not exist."""
    with _exclusive(file):
        ring = _load(file) if file.exists() else KeyRing()
        ring, issued = ring.added(name, dict(map(parse_grant, grant)), rate)
        save_keys(file, ring)
    _print_issued(name, issued, as_json)


@app.command("list")
def list_keys(file: File, as_json: Json = False) -> None:
    """List the keys' holders and permissions."""
    described = [describe(key, time.time()) for key in _load(file).keys.values()]
    if as_json:
        print_json(described)
        return
    for key in described:
        grants = ", ".join(f"{role}:{collection}" for collection, role in key["grants"].items())
        rate = f", {key['rate']:g} a second" if key["rate"] else ""
        ends = "".join(f", one secret expires {one['expires']}" for one in key["secrets"] if one["expires"])
        print(f"{key['name']}  {grants}{rate}{ends}")


@app.command()
def rotate(
    name: Name,
    file: File,
    keep_hours: Annotated[
        float, typer.Option(min=0, max=_TEN_YEARS, help="Hours until the old key expires.")
    ] = 24.0,
    as_json: Json = False,
) -> None:
    """Create a new key for a holder and print it. The old key keeps working for a while."""
    with _exclusive(file):
        ring, issued = _load(file).rotated(name, keep_hours * 3600, time.time())
        save_keys(file, ring)
    _print_issued(name, issued, as_json)


@app.command()
def remove(
    name: Name,
    file: File,
    open_to_everyone: Annotated[
        bool,
        typer.Option("--open-to-everyone", help="Allow removing the last key; then no key is required."),
    ] = False,
) -> None:
    """Revoke a holder's keys, at once."""
    with _exclusive(file):
        ring = _load(file).removed(name)
        if not ring.keys and not open_to_everyone:
            raise InvalidRequest(
                f"name: {name!r} has the last key; without it everyone may do everything. Add another first, or"
                " use --open-to-everyone"
            )
        save_keys(file, ring)


@contextlib.contextmanager
def _exclusive(file: Path) -> Iterator[None]:
    """Serializes changes to the file: each process reads the file after the previous one has written it. Locks the
    file's folder, because the file itself is replaced."""
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
