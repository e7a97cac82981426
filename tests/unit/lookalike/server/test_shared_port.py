"""Where several processes may share a port."""

from __future__ import annotations

import pytest

from lookalike.model.errors import CannotStart
from lookalike.server.shared_port import check_shared_port


def test_several_processes_need_linux() -> None:
    with pytest.raises(CannotStart, match=r"coordinator.processes: 2 .* on Linux only, and this is darwin; set 1"):
        check_shared_port(2, "darwin")
    check_shared_port(1, "darwin")
    check_shared_port(64, "linux")
