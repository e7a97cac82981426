"""Stands in for `python -m lookalike`: a fork runs the command, with this process's files, environment and folder
(see tests/docs/forked.py). Imports little, so that it starts at once."""

import json
import os
import socket
import sys


def main() -> None:
    request = {"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(os.environ["FORK_SOCKET"])
        socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
        code = int(connection.recv(16))
    # A shell reports a signal in this way.
    sys.exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
