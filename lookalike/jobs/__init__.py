"""Long-running jobs over a whole collection, as clients of the cluster: backup, restore, export and dedup."""
