"""Backup and restore of a collection, to and from a folder that fsspec can reach.

folder.py    the layout of a backup folder, and the manifest of one backup
part.py      one file of records, written and read with its checksum
backup.py    takes a backup: full, or the changes since the last one
restore.py   verifies backups and restores them
retention.py removes the backups that the latest ones do not need"""
