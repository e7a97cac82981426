"""Owns the encoder as a Serve application, for an existing Ray cluster: KubeRay, or `serve deploy`.

    import_path: encoder.application:build      args: {config: FILE, fronts: 2, name: default}

Its fronts (`encoder.front`) serve gRPC; they run on nodes with the Ray resource `front`, at most one on each. Its
models run on any node. The alternative is `python -m encoder`, which is itself a Ray driver and needs no
application."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ray import serve

from encoder.deployment import models
from encoder.front import Fronts
from encoder.spec import errors_of
from lookalike.model.errors import CannotStart
from lookalike.model.status import DEFAULT_ENCODER
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, EncoderConfig, load_config
from lookalike.server.observe.process import Observation, Process

FRONT_RESOURCE = "front"


class EncoderFront:
    """A Serve replica that runs a front for as long as the replica lives."""

    async def __init__(self, handle: Any, config: str, name: str) -> None:  # type: ignore[misc]  # Serve awaits it
        cluster, _ = _read(config, name)
        self._background = BackgroundTasks()
        observation = Observation(cluster, Process("encoder"))
        self._fronts = await Fronts.start({name: handle}, cluster, observation, self._background)

    async def check_health(self) -> None:
        """Raises if a background task failed; Serve then replaces this front."""
        self._background.raise_failure()

    async def __del__(self) -> None:
        await self._fronts.stop()
        await self._background.stop()


def build(arguments: dict[str, Any]) -> serve.Application:
    """Builds the application.

    Args:
        arguments: config: the path of the cluster config, the same on every node. fronts: the number of fronts, 1
            by default. name: the encoder's name in the config, "default" by default.

    Raises:
        CannotStart: If the config is invalid, or has no such encoder.
    """
    path, name = str(arguments["config"]), str(arguments.get("name", DEFAULT_ENCODER))
    cluster, config = _read(path, name)
    front = serve.deployment(EncoderFront).options(
        num_replicas=int(arguments.get("fronts", 1)),
        max_replicas_per_node=1,
        ray_actor_options={"num_cpus": 0, "resources": {FRONT_RESOURCE: 1}},
    )
    with errors_of(name):
        return front.bind(models(config, cluster.limits.max_image_pixels), path, name)


def _read(path: str, name: str) -> tuple[ClusterConfig, EncoderConfig]:
    cluster = load_config(Path(path))
    if name not in cluster.all_encoders:
        raise CannotStart(f"config: {path} has no encoder {name!r}; add it")
    return cluster, cluster.all_encoders[name]
