"""Starts one coordinator: `python -m coordinator --config FILE`."""

from __future__ import annotations

import contextlib
from pathlib import Path

from coordinator.server import SearchServicer
from coordinator.web import private_address, start_web
from lookalike.model.errors import CannotStart
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import ClusterConfig, load_config
from lookalike.server.config_follower import ConfigFollower
from lookalike.server.lifecycle import process_arguments, run_process, until_stopped
from lookalike.server.observe.process import Observation, Process
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.security.authorizer import key_authorizer
from lookalike.server.serving import Server
from lookalike.server.shared_port import check_shared_port
from lookalike.v1 import search_pb2, search_pb2_grpc


async def serve(config_path: Path, watch_stdin: bool, process: int = 0, socket: Path | None = None) -> None:
    """Serves the configured cluster until a signal stops the process.

    Args:
        config_path: The cluster's config.
        watch_stdin: Also stop at the end of standard input.
        process: The number of this process among those that share its ports.
        socket: A unix socket at which this process alone answers, for its web server and a supervisor; None for a
            new one.

    Raises:
        CannotStart: If the config or an address cannot be used.
        BackgroundFailed: If a background task failed for good.
    """
    with private_address() if socket is None else contextlib.nullcontext(f"unix:{socket}") as web_to_grpc:
        async with BackgroundTasks() as background:
            await _serve(config_path, watch_stdin, process, web_to_grpc, background)


async def _serve(
    config_path: Path, watch_stdin: bool, process: int, web_to_grpc: str, background: BackgroundTasks
) -> None:
    config = load_config(config_path)
    shares_port = _shares_port(config, process)
    observation = Observation(config, Process("coordinator", number=process if shares_port else None))
    observation.trace()
    admission = Admission(config.max_request_bytes)
    peer_channels = PeerChannels(config.security)
    servicer = SearchServicer(config, admission, peer_channels, process)
    service = search_pb2.DESCRIPTOR.services_by_name["SearchService"].full_name
    tls = peer_channels.outer_tls()
    server = Server([service], admission, key_authorizer(config.security.keys), shares_port)
    search_pb2_grpc.add_SearchServiceServicer_to_server(servicer, server.services)
    server.grpc.add_insecure_port(web_to_grpc)
    await server.start(config.coordinator.listen, tls)
    observation.serve_metrics(config.coordinator.metrics_of(process), server.gauges, servicer.gauges)
    web = await start_web(config, web_to_grpc, tls.web_context() if tls else None)
    await servicer.start(background)

    async def reload(config: ClusterConfig) -> None:
        await servicer.reload(config)
        observation.follow(config)

    background.start("config follower", ConfigFollower(config_path, config, reload).run)
    await server.set_ready()
    await background.run_until(until_stopped(watch_stdin))
    servicer.drain()
    await server.set_ready(False)
    await web.cleanup()
    await server.stop()
    await background.stop()
    await servicer.close()
    observation.stop()


def _shares_port(config: ClusterConfig, process: int) -> bool:
    """Returns whether several processes share this one's ports. Raises CannotStart."""
    processes = config.coordinator.processes
    if not 0 <= process < processes:
        raise CannotStart(
            f"process: {process} is not one of the {processes} of coordinator.processes; use 0..{processes - 1}"
        )
    check_shared_port(processes)
    return processes > 1


def main() -> None:
    parser = process_arguments("coordinator", __doc__)
    parser.add_argument(
        "--process", type=int, default=0, help="which of the config's coordinator.processes, from 0"
    )
    parser.add_argument("--socket", type=Path, help="a unix socket at which only this process answers")
    arguments = parser.parse_args()
    run_process(serve(arguments.config, arguments.watch_stdin, arguments.process, arguments.socket))


if __name__ == "__main__":
    main()
