"""Owns the Ray cluster that image jobs of the tests join, because to start one takes each job ten seconds.

    python -m tests.ray_head

prints its address, and ends when its standard input does."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests import preloaded

# More than the jobs of a test ask for at a time, so that none waits for another.
CPUS = 8
_STOP_SECONDS = 60


@contextlib.contextmanager
def ray_head() -> Iterator[Mapping[str, str]]:
    """A Ray cluster with its own token; yields the variables that make a job join it."""
    token = secrets.token_hex(32)
    # Jobs use few of the processors, and the workers that Ray would start for the others cost seconds.
    quiet = {"RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0"}
    environment = {**os.environ, **quiet, "RAY_AUTH_TOKEN": token}
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as said,
        os.fdopen(writing, "wb") as output,
        tempfile.NamedTemporaryFile("wb") as errors,
    ):
        command = [sys.executable, "-m", "tests.ray_head"]
        process = preloaded.Popen(command, stdout=output, stderr=errors, env=environment)
        output.close()
        assert process.stdin is not None
        try:
            address = said.readline().strip()
            assert address, Path(errors.name).read_text()
            yield {"LOOKALIKE__ENCODER__RAY_ADDRESS": address, "RAY_AUTH_TOKEN": token}
        finally:
            process.stdin.close()
            process.wait(_STOP_SECONDS)


def main() -> None:
    """Runs the cluster until standard input ends."""
    import ray

    from encoder.ray_session import ray_session

    with ray_session(None, CPUS):
        print(ray.get_runtime_context().gcs_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
