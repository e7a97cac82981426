"""Owns the start of the `lookalike` command. It lies outside of the package, whose import alone takes most of a
second: until all of it is there, Ctrl-C ends the command as quietly as later."""

from __future__ import annotations

import sys


def main() -> None:
    """Load the commands and run the one that was asked for. See `lookalike.cli.main`."""
    try:
        from lookalike.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()
