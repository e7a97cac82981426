"""Jobs over a whole collection that are clients like any other: `export` to parquet, and `dedup`, groups of
near-duplicates (`groups` finds them, `sheet` shows them). Ingestion is the encoder's."""
