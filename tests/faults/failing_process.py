"""Runs a server process in which chosen calls raise.

    python -m tests.faults.failing_process PROCESS FAULT... -- ARGUMENTS

A fault is MODULE:CLASS.METHOD[@CALL=ERROR,...]: an async method, and which of its calls raise, counted from 1.
Every other call of such a method writes `ran CLASS.METHOD` to standard error."""

from __future__ import annotations

import errno
import importlib
import sys
from collections.abc import Mapping
from typing import Any

ERRORS = {
    "OSError": OSError(errno.ENOSPC, "No space left on device"),
    "TypeError": TypeError("injected"),
}


def inject(fault: str) -> None:
    """Makes the calls of a fault raise."""
    target, _, schedule = fault.partition("@")
    module, _, path = target.partition(":")
    kind, _, method = path.partition(".")
    owner = getattr(importlib.import_module(module), kind)
    calls = (one.partition("=") for one in schedule.split(",") if one)
    failing = {int(call): ERRORS[error] for call, _, error in calls}
    setattr(owner, method, _failing(getattr(owner, method), path, failing))


def _failing(method: Any, name: str, failing: Mapping[int, Exception]) -> Any:
    calls = 0

    async def run(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls in failing:
            raise failing[calls]
        print(f"ran {name}", file=sys.stderr, flush=True)
        return await method(*arguments, **options)

    return run


def main() -> None:
    end = sys.argv.index("--")
    process, *faults = sys.argv[1:end]
    for fault in faults:
        inject(fault)
    sys.argv = [process, *sys.argv[end + 1 :]]
    importlib.import_module(f"{process}.__main__").main()


if __name__ == "__main__":
    main()
