"""The chaos harness: a real cluster under load, faults of every kind, and a checker that knows what each answer
may say. Run it with `python -m tests.chaos --help`; the last line it prints is the verdict as JSON.

    __main__.py   options, and one run from start to verdict     isolation.py  a namespace that nothing escapes
    keeper.py     processes: pids, restarts, logs                cluster.py    which processes a cluster has
    network.py    hosts, and cuts between them                   disks.py      small disks that can be filled
    clocks.py     processes whose clock is wrong                 faults.py     what is broken, and when
    reshard.py    another number of partitions, under load       workload.py   writers and readers
    history.py    what was written, and when                     checker.py    what an answer may say
    readback.py   every key, read when all is healed             plant.py      lies, to test the checker
    meter.py      how many calls succeeded, and how fast         verdict.py    what is counted and printed

Nothing here decides by luck of timing: what an answer may say follows from when it was asked for and given."""
