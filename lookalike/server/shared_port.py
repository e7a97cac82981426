"""Owns the check whether several processes can listen on one port."""

from __future__ import annotations

import sys

from lookalike.model.errors import CannotStart


def check_shared_port(processes: int, platform: str = sys.platform) -> None:
    """Raises CannotStart if several processes are to share a port on a system that does not spread connections
    over them. macOS has the socket option SO_REUSEPORT too, but gives all connections to one process."""
    if processes > 1 and platform != "linux":
        raise CannotStart(
            f"coordinator.processes: {processes} processes can share a port on Linux only, and this is {platform};"
            " set 1"
        )
