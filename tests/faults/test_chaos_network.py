"""The network of the chaos harness: a cut drops packets in one or both directions, on open and new connections."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.chaos.isolation import UNSHARE, is_permitted

# Runs in its own namespaces. UDP, because each datagram is independent of the others.
_SCRIPT = r"""
import subprocess, sys
from tests.chaos.network import Namespaces

LISTEN = '''
import socket
sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(1)]
sockets[0].bind(("0.0.0.0", 9000)); print("up", flush=True)
while True:
    print(sockets[0].recvfrom(100)[0].decode(), flush=True)
'''
SEND = '''
import socket, sys
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(sys.argv[1].encode(), (sys.argv[2], 9000))
'''
ADDRESSES = {"replica0": "10.77.0.103", "replica1": "10.77.1.101"}
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
network = Namespaces(2, 1)
listeners = {
    host: subprocess.Popen([*network.prefix(host), sys.executable, "-c", LISTEN], stdout=subprocess.PIPE,
    text=True) for host in ADDRESSES
}
for listener in listeners.values():
    assert listener.stdout.readline() == "up\n"

def send(sender, receiver, text):
    address = ADDRESSES[receiver]
    subprocess.run([*network.prefix(sender), sys.executable, "-c", SEND, text, address], check=True)

def probe(text):
    send("replica0", "replica1", text)
    send("replica1", "replica0", text)

probe("whole")
network.cut("replica0", "replica1")
probe("one-way")
network.cut("replica1", "replica0")
probe("both")
network.heal()
probe("healed")
for host, listener in listeners.items():
    got = []
    while not got or got[-1] != "healed":
        got.append(listener.stdout.readline().strip())
    print(host, *got)
"""


def test_a_cut_drops_packets_until_it_is_healed() -> None:
    if not is_permitted():
        pytest.skip("network namespaces are not permitted here")
    command = [*UNSHARE, sys.executable, "-c", _SCRIPT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["replica0 whole one-way healed", "replica1 whole healed"]
