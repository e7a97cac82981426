"""Export of a collection to one parquet file (`parquet_file`), with metadata that describes its codes
(`notes`)."""
