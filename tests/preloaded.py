"""Owns fork servers for the processes of test clusters, for image jobs and for the commands of documents.

Starting Python and importing gRPC and Numba costs a shard or a coordinator 0.8 s of CPU; importing torch and Ray
costs an encoder or an image job 7 s. A fork server imports them once and forks for each process, which then runs
the same `main` as `python -m shard`. The tests of `lookalike up`, of deployments and of chaos start processes in
the ordinary way.

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
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import PIPE, TimeoutExpired
from typing import Any

__all__ = ["PIPE", "Popen", "TimeoutExpired"]
# The modules that each fork server runs as `python -m` does.
_MODULES = {
    "light": ("shard", "coordinator", "lookalike", "tests.faults.failing_process"),
    "heavy": ("encoder", "lookalike", "tests.faults.failing_process", "tests.ray_head"),
}
# The first arguments of `lookalike` and `failing_process` that need the heavy one.
_HEAVY = ("demo", "encoder", "evaluate", "fit", "ingest", "train")
# What the heavy fork server's modules import only when they need it.
_TORCH_AND_RAY = (
    "encoder.deployment",
    "encoder.front",
    "encoder.ingest.command",
    "encoder.ingest.job",
    "encoder.preflight",
    "encoder.ray_session",
)
_MESSAGE_BYTES = 1 << 20
_POLL_SECONDS = 0.02


class _ForkServer:
    """The client of a fork server. Threads may share it."""

    def __init__(self, name: str) -> None:
        own, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lock = threading.Lock()
        self._socket = own
        with other:
            self._process = subprocess.Popen([sys.executable, "-m", __name__, name], stdin=other.fileno())
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
def _fork_server(name: str) -> _ForkServer:
    return _ForkServer(name)


class _Forked(subprocess.Popen[bytes]):
    """A process that a fork server started: what the supervisor uses of `subprocess.Popen`."""

    def __init__(self, command: Sequence[str], files: tuple[int | None, int, int], **place: Any) -> None:
        """files: standard input, None for a pipe; standard output; standard error. place: `environment` and
        `folder`, if they are not those of this process."""
        self._child_created = False  # the fork server reaps it
        self.returncode: int | None = None
        self.args = command
        self.stdin = self.stdout = self.stderr = None
        module, *arguments = command[2:]
        self._server = _fork_server(_server_of(module, arguments))
        request = {"start": module, "arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        standard_input, *others = files
        reading = standard_input
        if reading is None:
            reading, writing = os.pipe()
            self.stdin = os.fdopen(writing, "wb")
        try:
            pid = self._server.ask(request | place, [reading, *others])
        finally:
            if standard_input is None:
                os.close(reading)
        assert pid is not None
        self.pid = pid

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = self._server.ask({"poll": self.pid}, [])
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutExpired(self.args, timeout or 0.0)
            time.sleep(_POLL_SECONDS)
        return code


def Popen(command: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:  # stands in for the class
    """Forks if a fork server has the command's module, and otherwise starts it as `subprocess.Popen` does."""
    if command[1] != "-m" or not any(command[2] in modules for modules in _MODULES.values()):
        return subprocess.Popen(command, **options)
    output = options["stdout"].fileno()
    errors = options["stderr"].fileno() if "stderr" in options else output
    place = {"environment": dict(options["env"])} if "env" in options else {}
    return _Forked(command, (None, output, errors), **place)


def fork(
    command: Sequence[str], files: tuple[int, int, int], environment: Mapping[str, str], folder: str
) -> subprocess.Popen[bytes]:
    """Forks for a command, with its standard files, environment and folder."""
    return _Forked(command, files, environment=environment, folder=folder)


def run(command: Sequence[str], environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a forked command to its end, without input, and returns its exit code and what it wrote."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = Popen(
            command, stdout=output, stderr=errors, env=os.environ if environment is None else environment
        )
        assert process.stdin is not None
        process.stdin.close()
        code = process.wait()
        written = []
        for file in (output, errors):
            file.seek(0)
            written.append(file.read().decode())
    return subprocess.CompletedProcess(command, code, *written)


def main() -> None:
    """Serves requests on standard input, which is a socket, until the other end closes."""
    server = sys.argv[1]
    before = set(os.environ)
    for module in _MODULES[server]:
        _entry_of(module)
    if server == "light":
        from shard.kernel import CodeMatrix

        CodeMatrix(64).warm_up()
    else:
        for module in _TORCH_AND_RAY:
            importlib.import_module(module)
    # A process that imports these modules itself sets these variables.
    defaults = {name: value for name, value in os.environ.items() if name not in before}
    gc.collect()
    gc.freeze()  # else each child's first collection copies all pages
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = socket.socket(fileno=0)
    while True:
        message, files, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 3)
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
                request["environment"] = {**defaults, **request["environment"]}
                _run(request, *files)
            os.setpgid(answer, answer)
            for file in files:
                os.close(file)
        requests.send(json.dumps(answer).encode())


def _server_of(module: str, arguments: Sequence[str]) -> str:
    """The fork server for a command."""
    if module in _MODULES["light"] and not (arguments and arguments[0] in _HEAVY):
        return "light"
    return "heavy"


def _run(request: dict[str, Any], standard_input: int, output: int, errors: int) -> None:
    """Runs a module in this child; never returns."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for file, number in ((standard_input, 0), (output, 1), (errors, 2)):
        os.dup2(file, number)
    os.closerange(3, max(standard_input, output, errors) + 1)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(Path(request["folder"]))
    sys.argv = [request["start"], *request["arguments"]]
    _entry_of(request["start"]).main()
    sys.exit(0)


def _entry_of(module: str) -> Any:
    """What `python -m` runs: the package's `__main__`, or the module itself."""
    found = importlib.import_module(module)
    return importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found


if __name__ == "__main__":
    main()
