"""Owns one encoder behind Ray Serve on this machine, for `benchmarks.gpu`. Imports Ray."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from encoder.deployment import ONGOING_BATCHES, deployed
from encoder.images import MAX_PIXELS
from encoder.ray_session import ray_session
from lookalike.model.errors import CannotStart
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.config import EncoderConfig

_CPUS = 4


@contextlib.contextmanager
def served(device: Literal["cuda", "cpu"], weights: Path | None) -> Iterator[Callable[[Sequence[bytes]], int]]:
    """Runs an encoder with one replica.

    Args:
        device: Where the replica computes.
        weights: A file of weights; None for the installed ones.

    Yields:
        A function that encodes a batch of files, as often as batches are in flight to a replica, and returns the
        number of images encoded.

    Raises:
        CannotStart: If Ray or the model cannot start.
    """
    config = EncoderConfig(
        device=device,
        weights=None if weights is None else str(weights),
        gpus_per_replica=1 if device == "cuda" else 0,
        precision="bfloat16" if device == "cuda" else "auto",
    )
    with asyncio.Runner() as runner, ray_session(None, _CPUS):
        cluster = deployed({DEFAULT_ENCODER: config}, MAX_PIXELS)
        handle = runner.run(cluster.__aenter__())[DEFAULT_ENCODER]
        try:
            problem = runner.run(_ask(handle.describe))
            if isinstance(problem, str):
                raise CannotStart(problem)

            async def encode(files: Sequence[bytes]) -> int:
                calls = [handle.encode.remote(files, False, False) for _ in range(ONGOING_BATCHES)]
                answers = [item for call in calls for item in await call]
                assert all(item.code for item in answers), "a file of the benchmark cannot be read"
                return len(answers)

            yield lambda files: runner.run(encode(files))
        finally:
            runner.run(cluster.__aexit__(None, None, None))


async def _ask(method: object) -> object:
    return await method.remote()  # type: ignore[attr-defined]
