"""Starts one shard: `python -m shard --config FILE --partition N [--replica N]`."""

from __future__ import annotations

from pathlib import Path

from lookalike.cluster.placement import MAX_PARTITIONS
from lookalike.model.errors import CannotStart
from lookalike.server.admission import Admission
from lookalike.server.background import BackgroundTasks
from lookalike.server.config import MAX_REPLICAS, ClusterConfig, load_config
from lookalike.server.config_follower import ConfigFollower
from lookalike.server.lifecycle import process_arguments, run_process, until_stopped
from lookalike.server.observe.process import Observation, Process
from lookalike.server.peer_channels import PeerChannels
from lookalike.server.serving import Server
from lookalike.v1 import shard_pb2, shard_pb2_grpc
from shard.device import searcher
from shard.executor import ShardExecutor
from shard.membership import Identity
from shard.node import Node
from shard.readiness import ReadinessTracker
from shard.replication.reconciler import Reconciler
from shard.scrub import Scrubber
from shard.server import ShardServicer
from shard.status import ShardStatus


async def serve(config_path: Path, partition: int, replica: int, watch_stdin: bool) -> None:
    """Serves one replica of a partition until a signal stops it.

    Raises:
        CannotStart: If the config, the data or an address cannot be used.
        BackgroundFailed: If a background task failed for good.
    """
    config = load_config(config_path)
    if not (0 <= partition < MAX_PARTITIONS and 0 <= replica < MAX_REPLICAS):
        raise CannotStart(
            f"partition {partition}, replica {replica}: partitions are 0..{MAX_PARTITIONS - 1}, replicas"
            f" 0..{MAX_REPLICAS - 1}"
        )
    observation = Observation(config, Process("shard", partition, replica))
    observation.trace()
    identity = Identity(config.cluster, partition, replica)
    folder = config.shard.data / f"r{replica}-{partition}"
    node = Node(folder, identity, config.partitions, config.shard.scan_threads, searcher(config.shard.device))
    peer_channels = PeerChannels(config.security)
    admission = Admission(config.max_request_bytes)
    server = Server(
        [shard_pb2.DESCRIPTOR.services_by_name["ShardService"].full_name],
        admission,
        peer_channels.authorizer(),
    )
    executor = ShardExecutor(node)
    readiness = ReadinessTracker(partition)
    status = ShardStatus(node, readiness)
    servicer = ShardServicer(node, executor, readiness, status, admission)
    shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server.services)
    await server.start(config.shard_listen(partition, replica), peer_channels.inner_tls())
    reconciler = Reconciler(node, executor, readiness, config, peer_channels, server.set_ready)
    observation.serve_metrics(
        config.shard_metrics(partition, replica),
        server.gauges,
        executor.gauges,
        status.gauges,
        reconciler.gauges,
    )
    await executor.load()
    readiness.mark_loaded()

    async def reload(config: ClusterConfig) -> None:
        await reconciler.reload(config)
        observation.follow(config)

    async with BackgroundTasks() as background:
        background.start("reconciler", reconciler.run)
        background.start("scrubber", Scrubber(node, executor, config.shard.scrub_hours).run)
        background.start("config follower", ConfigFollower(config_path, config, reload).run)
        await background.run_until(until_stopped(watch_stdin))
        servicer.drain()
        await server.stop()
        await background.stop()
        await executor.close()
        node.close()
        observation.stop()


def main() -> None:
    parser = process_arguments("shard", __doc__)
    parser.add_argument("--partition", type=int, required=True, help="which partition, from 0")
    parser.add_argument("--replica", type=int, default=0, help="which replica of the partition, from 0")
    arguments = parser.parse_args()
    run_process(serve(arguments.config, arguments.partition, arguments.replica, arguments.watch_stdin))


if __name__ == "__main__":
    main()
