"""Owns how a shard keeps up with the cluster: a loop over steps (`reconciler`), with one file per step.

    gossip        exchange target placements and slot tables with other shards
    join          form a cluster, or join one
    follow        learn about collections and slot moves from other shards
    recover       fetch slots that the other replicas of the partition serve but this shard lacks
    repair        compare rows with the other replicas of the partition, and pull what differs
    become_ready  decide whether to answer reads
    transfer      take slots from other partitions
    reclaim       remove the rows of slots that moved to other partitions

The steps share a `context`; their decisions on slots are pure functions (`moves`). `pull` copies rows from another
shard, and `catalog` creates and drops collections to match that shard's. Nothing here depends on the gRPC server
(`shard.server`)."""
