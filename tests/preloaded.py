"""Owns a fork server for the shards and coordinators of test clusters.

Starting Python and importing gRPC and Numba costs a process 0.8 s of CPU. The fork server imports them once and
forks for each process, which then runs the same `main` as `python -m shard`. The tests of `lookalike up`, of
deployments and of chaos start processes in the ordinary way.

The names `Popen`, `PIPE` and `TimeoutExpired` let this module replace `subprocess` in lookalike/local/process.py.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import IO, Any

__all__ = ["PIPE", "Popen", "TimeoutExpired"]
_MODULES = ("shard", "coordinator")
_MESSAGE_BYTES = 1 << 20
_POLL_SECONDS = 0.02


class _ForkServer:
    """The client of a fork server. Threads may share it."""

    def __init__(self) -> None:
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._socket = own
        with other:
            self._process = subprocess.Popen([sys.executable, "-m", __name__], stdin=other.fileno())
        atexit.register(self._close)

    def ask(self, request: dict[str, Any], files: list[int]) -> int | None:
        """Sends a request and returns the answer."""
        with self._lock:
            socket.send_fds(self._socket, [json.dumps(request).encode()], files)
            answer: int | None = json.loads(self._socket.recv(_MESSAGE_BYTES))
            return answer

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


@functools.cache
def _fork_server() -> _ForkServer:
    return _ForkServer()


class _Forked(subprocess.Popen[bytes]):
    """A process that the fork server started: what the supervisor uses of `subprocess.Popen`."""

    def __init__(self, module: str, arguments: list[str], output: IO[bytes]) -> None:
        self._child_created = False  # the fork server reaps it
        self.returncode: int | None = None
        self.args = [sys.executable, "-m", module, *arguments]
        reading, writing = os.pipe()
        self.stdin = os.fdopen(writing, "wb")
        request = {"start": module, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        try:
            pid = _fork_server().ask(request, [reading, output.fileno()])
        finally:
            os.close(reading)
        assert pid is not None
        self.pid = pid

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = _fork_server().ask({"poll": self.pid}, [])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code


def Popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:  # stands in for the class
    """Forks a shard or a coordinator, and starts any other command as `subprocess.Popen` does."""
    if command[1] == "-m" and command[2] in _MODULES:
        return _Forked(command[2], command[3:], options["stdout"])
    return subprocess.Popen(command, **options)


def main() -> None:
    """Serves requests on standard input, which is a socket, until the other end closes."""
    for module in _MODULES:
        importlib.import_module(f"{module}.__main__")
    from shard.kernel import CodeMatrix

    CodeMatrix(64).warm_up()
    gc.collect()
    gc.freeze()  # else each child's first collection copies all pages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=0)
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
        if not message:
            return
        request = json.loads(message)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                requests.detach()
                _run(request, *files)
            os.setpgid(answer, answer)
            for file in files:
                os.close(file)
        requests.send(json.dumps(answer).encode())


def _run(request: dict[str, Any], standard_input: int, output: int) -> None:
    """Runs a module in this child; never returns."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, number in ((standard_input, 0), (output, 1), (output, 2)):
        os.dup2(file, number)
    os.closerange(3, max(standard_input, output) + 1)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(Path(request["folder"]))
    sys.argv = [request["start"], *request["arguments"]]
    sys.modules[f"{request['start']}.__main__"].main()
    sys.exit(0)


if __name__ == "__main__":
    main()
