"""Near-duplicates: found in groups (`groups`) and shown on one page (`sheet`)."""
