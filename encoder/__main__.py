"""Starts the encoder: `python -m encoder --config FILE`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lookalike.model.errors import CannotStart
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import load_config
from lookalike.server.lifecycle import process_arguments, run_process, until_stopped
from lookalike.server.observe.process import Observation, Process


async def serve(config_path: Path, watch_stdin: bool) -> None:
    """Runs the encoder that the config describes, until a signal stops it.

    Raises:
        CannotStart: If the config, the model or an address cannot be used.
        BackgroundFailed: If a background task failed for good.
    """
    cluster = load_config(config_path)
    config = cluster.encoder
    if config is None:
        raise CannotStart(f"config: {config_path} has no encoder section; add one")
    observation = Observation(cluster, Process("encoder"))
    # Ray and torch take seconds to import; an invalid config is reported before that.
    from joblib import cpu_count

    from encoder.preflight import space_of
    from encoder.spec import EncoderSpec

    # Not checked for a remote Ray cluster, which may have weights and GPUs that this machine lacks.
    if config.ray_address is None:
        space_of(EncoderSpec.from_config(config))

    from encoder.deployment import deployed
    from encoder.front import Front
    from encoder.ray_session import ray_session

    stopped = asyncio.ensure_future(until_stopped(watch_stdin))
    # Serve's own actors reserve no CPU; each replica reserves one. cpu_count respects a container's CPU limit, and
    # Ray starts a process for each CPU.
    with ray_session(config.ray_address, cpus=max(cpu_count(), config.max_replicas)):
        async with deployed(config, cluster.limits.max_image_pixels) as handle, BackgroundTasks() as background:
            # The gRPC server starts after Ray: Ray forks its processes from this one, and a fork can
            # hang while gRPC's threads run.
            front = await Front.start(handle, cluster, config, observation, background)
            await background.run_until(stopped)
            await front.stop()


def main() -> None:
    arguments = process_arguments("encoder", __doc__).parse_args()
    run_process(serve(arguments.config, arguments.watch_stdin))


if __name__ == "__main__":
    main()
