"""The cluster's front: where a record lives (`placement`), fan-out to the shards (`shard_link`, `search`,
`merge`), writes (`writes`, `clock`), collections (`catalog`), served over gRPC (`server`) and HTTP (`web`).

Stateless: all that it knows it can ask again, so any number of coordinators can run."""
