"""Owns the Ray Serve deployments: replicas that hold a model, scaled by load within the config's bounds. Each
encoder is an application of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

from ray import serve

from encoder.model import EncoderModel
from encoder.spec import Description, Encoded, EncoderSpec, errors_of
from lookalike.model.errors import CannotStart
from lookalike.model.query import Box
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.config import EncoderConfig
from lookalike.server.observe import metrics

# The application of the default encoder.
APPLICATION = "lookalike-encoder"
# One ongoing request is a whole batch: one running and one waiting keep a replica busy.
ONGOING_BATCHES = 2
_GPU_DECODE_THREADS = 4
_WATCH_SECONDS = 5.0

log = logging.getLogger("encoder.deployment")


class EncoderReplica:
    """One loaded model. A replica that cannot load its model reports why instead of crashing in a loop."""

    def __init__(self, spec: EncoderSpec, decode_threads: int, max_pixels: int) -> None:
        self._model: EncoderModel | None = None
        self._problem = ""
        try:
            self._model = EncoderModel(spec, decode_threads, max_pixels)
        except CannotStart as error:
            self._problem = error.message

    async def describe(self) -> Description | str:
        """Returns a description of the model, or the reason why the model is not loaded."""
        if self._model is None:
            return self._problem
        own = self._model
        return Description(own.space, own.width, own.device.type, own.hash.to_bytes())

    async def encode(
        self,
        images: Sequence[bytes],
        include_features: bool,
        include_projections: bool,
        boxes: Sequence[Box | None] = (),
    ) -> list[Encoded]:
        assert self._model is not None
        return await asyncio.to_thread(self._model.encode, images, include_features, include_projections, boxes)


def application_of(name: str) -> str:
    """The name of an encoder's Ray Serve application."""
    return APPLICATION if name == DEFAULT_ENCODER else f"{APPLICATION}-{name}"


def models(config: EncoderConfig, max_pixels: int) -> serve.Application:
    """Returns the Ray Serve application of the config, not yet deployed. max_pixels: the most pixels that an image
    may have. Raises CannotStart."""
    spec = EncoderSpec.from_config(config)
    threads = _GPU_DECODE_THREADS if config.gpus_per_replica else 1
    deployment = serve.deployment(EncoderReplica).options(
        max_ongoing_requests=ONGOING_BATCHES,
        ray_actor_options={"num_cpus": threads, "num_gpus": config.gpus_per_replica},
        autoscaling_config={
            "min_replicas": config.min_replicas,
            "initial_replicas": config.min_replicas,
            "max_replicas": config.max_replicas,
            "target_ongoing_requests": ONGOING_BATCHES,
        },
    )
    return deployment.bind(spec, threads, max_pixels)


@contextlib.asynccontextmanager
async def deployed(configs: Mapping[str, EncoderConfig], max_pixels: int) -> AsyncIterator[dict[str, Any]]:
    """Deploys encoders' models on the running Ray cluster, and yields a handle to each encoder's, by name.
    max_pixels: the most pixels that an image may have."""
    applications = {}
    for name, config in configs.items():
        with errors_of(name):
            applications[name] = models(config, max_pixels)
    await asyncio.to_thread(serve.start, http_options={"location": "NoServer"})
    try:
        yield {
            name: await asyncio.to_thread(serve.run, application, name=application_of(name), route_prefix=None)
            for name, application in applications.items()
        }
    finally:
        await asyncio.to_thread(serve.shutdown)


class ReplicaWatch:
    """Polls Ray Serve for the number of an encoder's replicas, so that a scrape of the metrics need not wait for
    Ray."""

    def __init__(self, name: str, max_replicas: int) -> None:
        self._name = name
        self._max = max_replicas
        self._by_state: Mapping[str, int] = {}

    async def run(self) -> None:
        """Polls until cancelled."""
        while True:
            try:
                self._by_state = await asyncio.to_thread(_replicas, self._name)
            except Exception:
                self._by_state = {}
                log.warning("cannot read the number of replicas from Ray Serve", exc_info=True)
            await asyncio.sleep(_WATCH_SECONDS)

    def gauges(self) -> Iterator[metrics.Sample]:
        """Yields the last known number of replicas by state, and the maximum."""
        yield metrics.ENCODER_REPLICAS_MAX, (self._name,), self._max
        for state, count in self._by_state.items():
            yield metrics.ENCODER_REPLICAS, (self._name, state.lower()), count


def _replicas(name: str) -> Mapping[str, int]:
    deployments = serve.status().applications[application_of(name)].deployments
    return {
        str(getattr(state, "value", state)): count
        for state, count in deployments["EncoderReplica"].replica_states.items()
    }
