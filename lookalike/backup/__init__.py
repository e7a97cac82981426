"""Backups of a collection in a folder that fsspec can reach, and their way back.

    folder.py    what lies where, and the manifest of one backup
    part.py      one file of records, written and read with its checksum
    taking.py    take a backup, whole or what came since the last one
    giving.py    verify backups and restore them
    command.py   `lookalike backup` and `lookalike restore`

It knows a cluster by its public service alone."""
