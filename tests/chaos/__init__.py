"""The chaos harness: a real cluster under load, fault injection, and a consistency checker for every answer. Run
it with `python -m tests.chaos --help`; the last line of its output is the verdict as JSON.

    __main__.py      one run, from start to verdict         isolation.py   namespaces for the whole run
    processes.py     process supervision: restarts, logs    cluster.py     the processes of a cluster
    network.py       hosts, and partitions between them     disks.py       small disks that can be filled
    clocks.py        clock skew                             faults.py      fault injection
    reshard.py       changes of the partition count         workload.py    concurrent writers and readers
    history.py       all writes, with their times           checker.py     which answers are permitted
    checked_reads.py reads that the checker verifies        final_check.py reads of every key after recovery
    violations.py    planted violations (checker tests)     call_stats.py  availability and latency
    content.py       codes and images to write              verdict.py     counts and output

The checker does not depend on timing luck: the permitted answers follow from when a read began and ended."""
