"""A long run of mixed load against real processes, which fails if what they hold keeps growing.

settings.py  the options of a run
load.py      the threads that call the cluster
cycles.py    what goes on beside the calls: resharding and backups
samples.py   what each process and each folder holds at a time
slopes.py    whether a figure grows
plot.py      the figures over time, as images"""
