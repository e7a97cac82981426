"""What the cluster's processes exchange, as plain data: slots and their placement, a shard's state, scans and
their hits, and dumps. Pure functions; nothing here opens a connection or a file."""
