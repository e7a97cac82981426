"""Owns running the `lookalike` command inside the test process: a separate process takes a second to start, and
more on a busy machine."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import Any
from unittest import mock

from lookalike.cli import main


def lookalike(*arguments: object) -> tuple[int, str, str]:
    """The command in this process: its exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    command = ["lookalike", *map(str, arguments)]
    with mock.patch.object(sys, "argv", command), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()
