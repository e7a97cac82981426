"""Starts encoders: `python -m encoder --config FILE`, all that the config names, or some by `--name`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

from lookalike.model.errors import CannotStart
from lookalike.model.status import DEFAULT_ENCODER, encoder_path
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, EncoderConfig, load_config
from lookalike.server.lifecycle import process_arguments, run_process, until_stopped
from lookalike.server.observe.process import Observation, Process

log = logging.getLogger("encoder")


async def serve(config_path: Path, watch_stdin: bool, names: Sequence[str]) -> None:
    """Runs encoders of the config in one Ray cluster, until a signal stops them.

    Args:
        config_path: The cluster's config.
        watch_stdin: Also stop when standard input ends.
        names: The encoders to run; all if empty.

    Raises:
        CannotStart: If the config, a model or an address cannot be used.
        BackgroundFailed: If a background task failed for good.
    """
    cluster = load_config(config_path)
    configs = _chosen(cluster, config_path, names)
    address = _ray_address(configs)
    observation = Observation(cluster, Process("encoder"))
    # Ray and torch take seconds to import; an invalid config is reported before that.
    from joblib import cpu_count

    # Not checked for a remote Ray cluster, which may have weights and GPUs that this machine lacks.
    if address is None:
        _require_loadable(configs)

    from encoder.deployment import deployed
    from encoder.front import Fronts
    from encoder.ray_session import ray_session

    stopped = asyncio.ensure_future(until_stopped(watch_stdin))
    # Serve's own actors reserve no CPU; each replica reserves one. cpu_count respects a container's CPU limit, and
    # Ray starts a process for each CPU.
    replicas = sum(config.max_replicas for config in configs.values())
    with ray_session(address, cpus=max(cpu_count(), replicas)):
        async with deployed(configs, cluster.limits.max_image_pixels) as handles, BackgroundTasks() as background:
            # The gRPC servers start after Ray: Ray forks its processes from this one, and a fork can
            # hang while gRPC's threads run.
            fronts = await Fronts.start(handles, cluster, observation, background)
            await background.run_until(stopped)
            await fronts.stop()


def _chosen(cluster: ClusterConfig, path: Path, names: Sequence[str]) -> dict[str, EncoderConfig]:
    found = cluster.all_encoders
    if not found:
        raise CannotStart(f"config: {path} says `encoder: null`; add an encoder")
    for name in names:
        if name not in found:
            raise CannotStart(f"name: {path} has no encoder {name!r}; use one of {', '.join(found)}")
    return {name: config for name, config in found.items() if not names or name in names}


def _ray_address(configs: dict[str, EncoderConfig]) -> str | None:
    addresses = {name: config.ray_address for name, config in configs.items()}
    first = next(iter(addresses))
    for name, address in addresses.items():
        if address != addresses[first]:
            raise CannotStart(
                f"config: {encoder_path(name)}.ray_address: {address!r} is not that of {encoder_path(first)};"
                " encoders in several Ray clusters need a process each, started with --name"
            )
    return addresses[first]


def _require_loadable(configs: dict[str, EncoderConfig]) -> None:
    from encoder.preflight import space_of
    from encoder.purpose import caution
    from encoder.spec import EncoderSpec, errors_of

    for name, config in configs.items():
        with errors_of(name):
            space = space_of(EncoderSpec.from_config(config))
        if said := caution(name, config, space.hash_method):
            log.warning(said)


def main() -> None:
    parser = process_arguments("encoder", __doc__)
    parser.add_argument(
        "--name", action="append", default=[],
        help=f"run only this encoder: {DEFAULT_ENCODER!r} or a key of `encoders`; can be repeated",
    )  # fmt: skip
    arguments = parser.parse_args()
    run_process(serve(arguments.config, arguments.watch_stdin, arguments.name))


if __name__ == "__main__":
    main()
