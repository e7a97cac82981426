"""Offline tools for choosing codes: labelled data sets (`datasets`), their features (`feature_cache`), hashes that
are fitted (`fitting`) or learned (`training`), their evaluation (`evaluation`), and the demo (`demo`). `cli` has
the commands fit and demo. Imports the encoder and the shard's kernel; no server imports it."""
