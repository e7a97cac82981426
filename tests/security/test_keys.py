"""The key file: changes while the coordinator runs, and the `lookalike keys` command."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lookalike.cli import app
from lookalike.server.security.keys import KeyRing, load_keys, save_keys
from tests.conftest import wait_until
from tests.security.conftest import SecuredCluster

pytestmark = pytest.mark.usefixtures("photos")


def test_keys_are_added_rotated_and_removed_without_a_restart(secured: SecuredCluster) -> None:
    ring, first = load_keys(secured.keys_file).added("guest", {"photos": "search"}, None)
    save_keys(secured.keys_file, ring)
    wait_until(lambda: secured.accepts(first), 5)
    ring, second = ring.rotated("guest", 3600, time.time())
    save_keys(secured.keys_file, ring)
    wait_until(lambda: secured.accepts(second), 5)
    assert secured.accepts(first)
    save_keys(secured.keys_file, ring.removed("guest"))
    wait_until(lambda: not secured.accepts(first), 5)
    assert not secured.accepts(second)


def test_removing_the_last_key_needs_confirmation(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    save_keys(file, KeyRing().added("only", {"*": "admin"}, None)[0])
    runner = CliRunner()
    rejected = runner.invoke(app, ["keys", "remove", "only", "--file", str(file)])
    assert "has the last key" in str(rejected.exception)
    assert load_keys(file).keys
    assert runner.invoke(app, ["keys", "remove", "only", "--file", str(file), "--open-to-everyone"]).exit_code == 0
    assert not load_keys(file).keys


def test_concurrently_added_keys_are_all_stored(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    folder = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    command = [
        sys.executable,
        "-m",
        "lookalike",
        "keys",
        "add",
        "second",
        "--grant",
        "search",
        "--file",
        str(file),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as second:
        opened = Path(f"/proc/{second.pid}/fd")
        wait_until(lambda: any(link.resolve() == tmp_path for link in opened.iterdir()), 60)
        save_keys(file, KeyRing().added("first", {"*": "admin"}, None)[0])
        os.close(folder)
        assert second.wait(60) == 0
    assert sorted(load_keys(file).keys) == ["first", "second"]
