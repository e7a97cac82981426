"""The batch job: which files (`sources`), encoded by Ray Data (`pipeline`), sent and accounted for (`job`)."""
