"""The cluster's entry point: searches (`search`, `fan_out`, `replicas`), reads by key (`reader`), writes
(`writes`, `write_router`, `clock`) and collections (`catalog`), routed by what the shards report (`cluster`,
`routing`) and served over gRPC (`server`) and HTTP (`web`).

Stateless: everything it knows, it can request again from the shards, so any number of coordinators can run."""
