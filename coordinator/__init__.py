"""The cluster's entry point: searches (`search`, `fan_out`, `replicas`), reads by key (`reader`), writes
(`writes`, `write_router`, `clock`) and collections (`catalog`), routed by what the shards report (`cluster`,
`routing`) and served over gRPC (`server`) and HTTP (`web`).

A coordinator is stateless: it can request all that it knows again from the shards, so any number can run."""
