"""Starts one coordinator: `python -m coordinator --config FILE`."""

from __future__ import annotations

import asyncio
from pathlib import Path

from coordinator.server import SearchServicer
from coordinator.web import start_web
from lookalike.admission import Admission
from lookalike.config import ClusterConfig, load_config
from lookalike.observe.process import Observation, Process
from lookalike.serving import Server, follow_config, process_arguments, run_process, until_stopped
from lookalike.v1 import search_pb2, search_pb2_grpc


async def serve(config_path: Path, watch_stdin: bool) -> None:
    """Serve the cluster that the config describes until a signal ends it."""
    config = load_config(config_path)
    observation = Observation(config, Process("coordinator"))
    observation.trace()
    admission = Admission(config.max_request_bytes)
    servicer = SearchServicer(config, admission)
    server = Server([search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name], admission)
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server.grpc)
    await server.start(config.coordinator.listen)
    observation.serve_metrics(config.coordinator.metrics, server.levels, servicer.levels)
    web = await start_web(config.coordinator.web, servicer.status)
    await servicer.start()

    async def reload(config: ClusterConfig) -> None:
        await servicer.reload(config)
        observation.follow(config)

    following = asyncio.create_task(follow_config(config_path, reload))
    await server.set_ready()
    await until_stopped(watch_stdin)
    servicer.drain()
    await server.stop()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await web.cleanup()
    await servicer.close()
    observation.stop()


def main() -> None:
    arguments = process_arguments("coordinator", __doc__).parse_args()
    run_process(serve(arguments.config, arguments.watch_stdin))


if __name__ == "__main__":
    main()
