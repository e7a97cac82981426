"""How a shard keeps up with the others: peers, repair, and slots on their way from partition to partition."""
