"""Processes that choose ports at the same time get different ones, and a port is free once its server ended."""

import socket
import subprocess
import sys
from pathlib import Path

from lookalike.local.ephemeral import ephemeral_config, is_free

_CHOOSE = """
import sys
from pathlib import Path
from lookalike.local.ephemeral import ephemeral_config

print(ephemeral_config(Path(sys.argv[1]), 2).coordinator.listen, flush=True)
sys.stdin.read()
"""


def thousand(listen: str) -> int:
    return int(listen.rpartition(":")[2]) // 1_000


def test_processes_that_choose_at_the_same_time_get_different_ports(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _CHOOSE, str(tmp_path)]
    choosers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
    ]
    chosen = []
    for chooser in choosers:
        assert chooser.stdout is not None
        chosen.append(thousand(chooser.stdout.readline().strip()))
    for chooser in choosers:
        chooser.communicate()
    assert len(set(chosen)) == 6


def test_configs_of_one_process_have_different_ports_before_their_clusters_start(tmp_path: Path) -> None:
    chosen = {thousand(ephemeral_config(tmp_path, 1).coordinator.listen) for _ in range(4)}
    assert len(chosen) == 4


def test_a_port_is_free_when_only_former_connections_hold_it() -> None:
    server = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{server.getsockname()[1]}"
    client = socket.create_connection(server.getsockname())
    accepted, _ = server.accept()
    assert not is_free(address)
    accepted.close()
    # The server's side closed first, so the kernel keeps its end of the connection for a minute.
    assert client.recv(1) == b""
    client.close()
    assert not is_free(address)
    server.close()
    assert is_free(address)
    assert not is_free(address, reuses=False)
