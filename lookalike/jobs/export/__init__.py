"""A collection as one parquet file (`parquet_file`), and the metadata that says what its codes are (`notes`)."""
