"""Owns what all kinds of jobs need: where records go, how long to try, and what is counted."""

from __future__ import annotations

import dataclasses
import socket

from encoder.ingest.dead_letters import DeadLetters
from encoder.ingest.rate import SendRate
from encoder.ingest.selection import Selection
from encoder.ingest.stats import Summary
from lookalike.model.errors import PartitionUnavailable

_REACH_SECONDS = 5.0
_MAX_CLIENT_SECONDS = 86_400.0


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """What all kinds of jobs need. patience: seconds to retry while the cluster accepts no records."""

    server: str
    collection: str
    dead_letters: DeadLetters
    summary: Summary
    selection: Selection
    bucket: SendRate
    patience: float
    dry_run: bool
    as_json: bool

    @property
    def client_timeout(self) -> float:
        """How long the client tries to reconnect a broken stream, in seconds."""
        return min(_MAX_CLIENT_SECONDS, max(1.0, self.patience))


def require_reachable(server: str) -> None:
    """Raises PartitionUnavailable if nothing answers at HOST:PORT, before Ray starts. Other forms of address
    (dns:///, lists) are not checked here, but when gRPC connects."""
    if any(mark in server for mark in "/,"):
        return
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_REACH_SECONDS).close()
    except (OSError, ValueError) as error:
        raise PartitionUnavailable(f"server: {server} does not answer ({error}); is the cluster up?") from None
