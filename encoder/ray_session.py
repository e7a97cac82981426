"""Owns the start of Ray: joins a cluster, or runs one on this machine, with a token and without a dashboard.

Ray listens on every interface, whatever address is configured. Keep its ports behind a firewall or in a network
namespace; the token prevents others from using them."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ray

from encoder.ray_reaper import reaper
from lookalike.model.errors import CannotStart

LOG_FILE = Path(tempfile.gettempdir()) / "lookalike-ray.log"
_OBJECT_STORE_BYTES = 512 * 1024 * 1024


@contextlib.contextmanager
def ray_session(address: str | None, cpus: int) -> Iterator[None]:
    """Joins a Ray cluster, or runs one on this machine until the block or this process ends, even if the process
    is killed.

    Args:
        address: The cluster to join; None to run one.
        cpus: The logical processors of a cluster on this machine.

    Raises:
        CannotStart: If Ray cannot be used.
    """
    own = {"num_cpus": cpus, "object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    except Exception as error:  # Ray raises many kinds of errors here
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise CannotStart(f"ray: cannot use {address or 'a local cluster'}: {reason}") from error
    with contextlib.nullcontext() if address else reaper(os.getpid()):
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def native_output_in_log() -> Iterator[None]:
    """Redirects what Ray's C++ code writes to standard error to LOG_FILE, so that it does not break a progress
    bar. Python's own `sys.stderr` is not redirected."""
    screen = os.dup(2)
    previous = sys.stderr
    with os.fdopen(screen, "w", buffering=1) as terminal, LOG_FILE.open("w") as log:
        sys.stderr = terminal
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(screen, 2)
            sys.stderr = previous
