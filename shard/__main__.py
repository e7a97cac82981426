"""Starts one shard: `python -m shard --config FILE --partition N [--replica N]`."""

from __future__ import annotations

from pathlib import Path

from lookalike.config import load_config
from lookalike.errors import CannotStart
from lookalike.serving import Server, process_arguments, run_process, until_stopped
from lookalike.v1 import shard_pb2, shard_pb2_grpc
from shard.node import Identity, Node
from shard.server import ShardServicer


async def serve(config_path: Path, partition: int, replica: int, watch_stdin: bool) -> None:
    """Serve one partition replica of the cluster until a signal ends it."""
    config = load_config(config_path)
    if not (0 <= partition < config.partitions and 0 <= replica < config.replicas):
        raise CannotStart(
            f"partition {partition}, replica {replica}: the config has {config.partitions} partitions and"
            f" {config.replicas} replicas, counted from 0"
        )
    identity = Identity(config.cluster, partition, replica, config.partitions)
    node = Node(config.shard.data / f"r{replica}-{partition}", identity, config.shard.scan_threads)
    server = Server([shard_pb2.DESCRIPTOR.services_by_name["ShardService"].full_name])
    servicer = ShardServicer(node)
    shard_pb2_grpc.add_ShardServiceServicer_to_server(servicer, server.grpc)
    await server.start(config.shard_address(partition, replica))
    await servicer.load()
    await server.set_ready()
    await until_stopped(watch_stdin)
    await server.stop()
    await servicer.close()


def main() -> None:
    parser = process_arguments("shard", __doc__)
    parser.add_argument("--partition", type=int, required=True, help="which partition, from 0")
    parser.add_argument("--replica", type=int, default=0, help="which replica of it, from 0")
    arguments = parser.parse_args()
    run_process(serve(arguments.config, arguments.partition, arguments.replica, arguments.watch_stdin))


if __name__ == "__main__":
    main()
