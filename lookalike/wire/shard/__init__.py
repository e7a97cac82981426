"""Messages between coordinators and shards, in both directions."""
