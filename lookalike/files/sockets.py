"""Owns folders for unix sockets that only this user can access."""

from __future__ import annotations

import tempfile

from lookalike.model.errors import CannotStart

# The kernel's limit on a unix socket's path, without room for the socket's name.
_MAX_FOLDER_BYTES = 107 - len("/coordinator-63")


def socket_folder(prefix: str) -> tempfile.TemporaryDirectory[str]:
    """Makes a folder for unix sockets with short names. Raises CannotStart if its path is too long for them."""
    folder = tempfile.TemporaryDirectory(prefix=prefix)
    if len(folder.name.encode()) > _MAX_FOLDER_BYTES:
        folder.cleanup()
        raise CannotStart(f"TMPDIR: {folder.name} is too long for a unix socket; use a shorter path")
    return folder
