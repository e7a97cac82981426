"""One replica of one partition: packed codes in memory (`kernel`), records on disk (`store`), both tied
into collections (`engine`) and kept in a folder (`node`), served over gRPC (`server`)."""
