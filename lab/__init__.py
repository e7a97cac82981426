"""Offline work that chooses the codes: labelled data sets (`datasets`), fitted and learned hashes (`fitting`,
`training`), their evaluation (`evaluation`), and the demo (`demo`). Imports the encoder and the shard's kernel; no
server imports it."""
