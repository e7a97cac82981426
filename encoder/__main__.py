"""Starts the encoder: `python -m encoder --config FILE`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from lookalike.admission import Admission
from lookalike.config import load_config
from lookalike.errors import CannotStart
from lookalike.inside import Inside
from lookalike.observe.process import Observation, Process
from lookalike.serving import Server, process_arguments, run_process, until_stopped
from lookalike.v1 import encoder_pb2, encoder_pb2_grpc


async def serve(config_path: Path, watch_stdin: bool) -> None:
    """Serve the config's encoder section until a signal ends it."""
    cluster = load_config(config_path)
    config = cluster.encoder
    if config is None:
        raise CannotStart(f"config: {config_path} has no encoder section; add one")
    inside = Inside(cluster.security)
    observation = Observation(cluster, Process("encoder"))
    # Ray and torch take seconds to import; a config that is wrong is said at once.
    from encoder.deployment import ReplicaWatch, deployed
    from encoder.ray_session import ray_session
    from encoder.server import EncoderServicer

    stopped = asyncio.ensure_future(until_stopped(watch_stdin))
    # Serve's own actors ask for no processor, the replicas for one each.
    with ray_session(config.ray_address, cpus=max(os.cpu_count() or 1, config.max_replicas)):
        async with deployed(config, cluster.limits.max_image_pixels) as handle:
            description = await handle.describe.remote()
            if isinstance(description, str):
                raise CannotStart(description)
            # Not earlier: Ray forks its processes off this one, and a fork beside gRPC's threads can hang.
            observation.trace()
            server = Server(
                [encoder_pb2.DESCRIPTOR.services_by_name["EncoderService"].full_name],
                Admission(cluster.max_request_bytes),
                inside.gate(),
            )
            servicer = EncoderServicer(handle, description, config.max_replicas, cluster.limits.max_image_bytes)
            encoder_pb2_grpc.add_EncoderServiceServicer_to_server(servicer, server.grpc)
            await server.start(config.address, inside.inner_tls())
            watch = ReplicaWatch(config.max_replicas)
            watching = asyncio.create_task(watch.run())
            observation.serve_metrics(config.metrics, server.levels, servicer.levels, watch.levels)
            await server.set_ready()
            await stopped
            await server.stop()
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await servicer.close()
            observation.stop()


def main() -> None:
    arguments = process_arguments("encoder", __doc__).parse_args()
    run_process(serve(arguments.config, arguments.watch_stdin))


if __name__ == "__main__":
    main()
