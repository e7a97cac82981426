"""The supervisor without processes."""

from __future__ import annotations

import threading
from pathlib import Path

from lookalike.local.ephemeral import ephemeral_config
from lookalike.local.supervisor import Supervisor
from tests.conftest import wait_until


def test_config_that_cannot_be_written_is_reported_once(tmp_path: Path) -> None:
    """As on a full disk: here the folder does not exist."""
    reports: list[str] = []
    config = ephemeral_config(tmp_path, 1)
    supervisor = Supervisor(config, tmp_path / "none", reports.append)
    watcher = threading.Thread(target=supervisor.watch)
    watcher.start()
    supervisor.reload(config.model_copy(update={"partitions": 2}))
    try:
        wait_until(lambda: bool(reports), 20)
        assert watcher.is_alive()
    finally:
        supervisor.ask_to_stop()
        watcher.join()
    assert len(reports) == 1
    assert "the config is not applied: data: " in reports[0]
    assert "run/config.yaml cannot be written (No such file or directory)" in reports[0]
