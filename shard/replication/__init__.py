"""Owns how a shard keeps up with the cluster: a loop over steps (`reconciler`), with one file per step.

    gossip        exchange targets and tables with other shards
    join          form a cluster, or join one
    follow        learn about collections and slot moves from other shards
    recover       fetch slots that the other replicas of the partition serve but this one lacks
    repair        compare with those replicas, and pull what differs
    become_ready  decide whether to answer reads
    transfer      take slots from other partitions
    reclaim       remove the rows of slots that moved to other partitions

The steps share a `context`; their decisions on slots are pure functions (`moves`). `pull` copies rows from another
shard, and `catalog` creates and drops collections to match it. Nothing here depends on the gRPC server
(`shard.server`)."""
