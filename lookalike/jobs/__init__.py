"""Long work over a whole collection, done by a client: backup and restore, export, and dedup."""
