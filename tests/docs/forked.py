"""Owns forks in place of the `lookalike` processes of a document's commands, so that each need not import the same
packages again. tests/docs/fork_client.py is the program that the commands run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests import preloaded

_REQUEST_BYTES = 1 << 20
_LOOK_SECONDS = 0.01


@contextlib.contextmanager
def fork_listener() -> Iterator[Path]:
    """Forks for each client; yields the path of the socket that they connect to."""
    with (
        tempfile.TemporaryDirectory(prefix="fork") as folder,  # the paths of sockets must be short
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
    ):
        path = Path(folder, "socket")
        listener.bind(str(path))
        listener.listen()
        accepting = threading.Thread(target=_accept, args=[listener])
        accepting.start()
        try:
            yield path
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()


def _accept(listener: socket.socket) -> None:
    serving = []
    with contextlib.suppress(OSError):  # it was shut down
        while True:
            connection, _ = listener.accept()
            serving.append(threading.Thread(target=_serve, args=[connection]))
            serving[-1].start()
    for thread in serving:
        thread.join()


def _serve(connection: socket.socket) -> None:
    """Runs a client's command, and returns its exit code. The command is killed if its client ends first."""
    with connection:
        message, files, _, _ = socket.recv_fds(connection, _REQUEST_BYTES, 3)
        request = json.loads(message)
        standard_input, output, errors = files
        command = [sys.executable, "-m", "lookalike", *request["arguments"]]
        process = preloaded.fork(
            command, (standard_input, output, errors), request["environment"], request["folder"]
        )
        for file in files:
            os.close(file)
        while (code := process.poll()) is None:
            if select.select([connection], [], [], _LOOK_SECONDS)[0]:
                process.kill()
                process.wait()
                return
        connection.send(str(code).encode())
