"""Owns the life of a server process outside of gRPC: arguments, stop signals and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import uvloop

from lookalike.files.limits import raise_file_limit
from lookalike.model.errors import CannotStart
from lookalike.server.background import BackgroundFailed
from lookalike.server.observe import logs

EXIT_BACKGROUND_FAILED = 1
EXIT_CANNOT_START = 2


async def until_stopped(watch_stdin: bool) -> None:
    """Waits for SIGTERM or SIGINT.

    Args:
        watch_stdin: Also stop at the end of standard input. A supervisor holds the other end, so the
            process does not outlive the supervisor, even if the supervisor is killed.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    if watch_stdin:
        loop.add_reader(sys.stdin, stopped.set)
    await stopped.wait()


def process_arguments(program: str, description: str | None) -> argparse.ArgumentParser:
    """Returns a parser for the arguments that every server process takes."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=description)
    parser.add_argument("--config", type=Path, required=True, help="the cluster's config file")
    parser.add_argument("--watch-stdin", action="store_true", help="stop when standard input ends")
    return parser


def run_process(main: Coroutine[Any, Any, None]) -> None:
    """Runs a server process to its end.

    Exits with one line on standard error: with code 2 if the process cannot start, or with code 1 if a background
    task failed for good."""
    logs.start("text", "info", {})
    raise_file_limit()
    try:
        uvloop.run(main)
    except CannotStart as error:
        _exit(error.message, EXIT_CANNOT_START)
    except BackgroundFailed as error:
        _exit(str(error), EXIT_BACKGROUND_FAILED)


def _exit(message: str, code: int) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(code)
