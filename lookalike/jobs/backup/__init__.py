"""Backups of a collection in a folder that fsspec can reach, and their restoration.

folder.py    the layout of a backup folder, and the manifest of one backup
part.py      one file of records, written and read with its checksum
backup.py    take a backup: whole, or the changes since the last one
restore.py   verify backups and restore them"""
