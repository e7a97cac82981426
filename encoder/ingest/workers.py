"""Owns the size of the pool of encoding actors. The module never imports Ray, and imports torch only if a GPU is
configured."""

from __future__ import annotations

import dataclasses

from lookalike.server.config import EncoderConfig


@dataclasses.dataclass(frozen=True, slots=True)
class Workers:
    """The pool: `count` actors, each with its share of a GPU and threads to decode in."""

    count: int
    gpus_each: float = 0.0
    decode_threads: int = 1


def workers_for(settings: EncoderConfig, count: int | None) -> Workers:
    """The pool for a config. count: the number of actors; by default one per processor that this process or its
    container may use or, if each actor gets a share of a GPU, as many as fit on the GPUs."""
    from joblib import cpu_count

    if not settings.gpus_per_replica:
        return Workers(count or cpu_count())
    import torch

    shares = max(1, int(torch.cuda.device_count() / settings.gpus_per_replica))
    actors = count or shares
    return Workers(actors, settings.gpus_per_replica, max(1, cpu_count() // actors))
