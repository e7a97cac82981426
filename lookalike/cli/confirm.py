"""Owns the question before a command deletes what cannot be restored."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lookalike.model.errors import InvalidRequest

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(what: str, yes: bool) -> None:
    """Asks on the terminal whether to go on.

    Args:
        what: What the command is going to do, such as "drop collection 'photos' with 12 records".
        yes: Whether the user has agreed already.

    Raises:
        InvalidRequest: If the user does not agree, or there is no terminal to ask on.
    """
    if yes:
        return
    if not (sys.stdin and sys.stdin.isatty()):
        raise InvalidRequest(f"yes: there is no terminal to ask on; add --yes to {what}")
    if not typer.confirm(f"{what[0].upper()}{what[1:]}?", err=True):
        raise InvalidRequest("yes: not confirmed; nothing was done")
