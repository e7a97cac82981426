"""One replica of one partition: packed codes in memory (`kernel`) and records on disk (`store`). `engine` joins
the two into a collection, `node` keeps the collections in a folder, and `server` serves them over gRPC."""
