"""The blocking client equals what scripts/unasync.py generates from the asynchronous one."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

from lookalike import AsyncClient, Client

SCRIPT = Path(__file__).parents[4] / "scripts" / "unasync.py"


def test_sync_client_is_current() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    def surface(client: type) -> dict[str, list[str]]:
        methods = inspect.getmembers(client, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in methods if name[0] != "_"}

    assert surface(Client) == surface(AsyncClient)
