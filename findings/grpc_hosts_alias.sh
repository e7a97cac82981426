#!/usr/bin/env bash
# One would guess: if /etc/hosts gives two hosts a common alias beside a name of their own, each own name still stands for
# one host, for gRPC as for `getent hosts`, ssh and curl; only the alias stands for both.
# What happens: gRPC's default resolver (c-ares) puts lines that share any name together, so a channel to one host's own
# name has the addresses of both, and with round_robin half of its calls reach the other host. With
# GRPC_DNS_RESOLVER=native, which asks glibc, all calls reach the named host.
# Needs root, for an /etc/hosts of its own in a mount namespace. All traffic stays on loopback.
set -euo pipefail
if [ "${1:-}" != inside ]; then
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    python3 -m venv "$folder/venv"
    "$folder/venv/bin/pip" install --quiet --disable-pip-version-check grpcio==1.85.1
    printf '127.0.0.1 localhost\n127.0.0.2 one.test both.test\n127.0.0.3 two.test both.test\n' > "$folder/hosts"
    unshare --mount --net bash "$0" inside "$folder"
    exit
fi
folder=$2
ip link set lo up
mount --bind "$folder/hosts" /etc/hosts
cat > "$folder/ask.py" <<'PY'
import collections
import sys
import time
from concurrent import futures

import grpc

METHOD, PORT = "/demo.Who/Am", 50_551


def serve(address, name):
    server = grpc.server(futures.ThreadPoolExecutor(2))
    handler = grpc.unary_unary_rpc_method_handler(lambda request, context: name)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("demo.Who", {"Am": handler})])
    assert server.add_insecure_port(f"{address}:{PORT}") == PORT
    server.start()
    return server


servers = [serve("127.0.0.2", b"one"), serve("127.0.0.3", b"two")]
config = '{"loadBalancingConfig": [{"round_robin": {}}]}'
with grpc.insecure_channel(f"{sys.argv[1]}:{PORT}", options=[("grpc.service_config", config)]) as channel:
    ask = channel.unary_unary(METHOD)
    ask(b"", wait_for_ready=True, timeout=20)
    time.sleep(1)  # round_robin connects to all addresses
    answers = collections.Counter(ask(b"", timeout=20).decode() for _ in range(100))
print(" ".join(f"{name}:{answers[name]}" for name in ("one", "two")))
for server in servers:
    server.stop(None)
PY
ask() { GRPC_DNS_RESOLVER=$1 "$folder/venv/bin/python" "$folder/ask.py" "$2"; }
ares=$(ask ares one.test) native=$(ask native one.test) alias=$(ask ares both.test)
echo "grpcio 1.85.1; getent hosts one.test: $(getent hosts one.test | cut -d' ' -f1)"
echo "calls to one.test: c-ares $ares, glibc $native; to both.test: c-ares $alias"
if [ "$ares" != "one:50 two:50" ] || [ "$native" != "one:100 two:0" ]; then
    echo "changed" >&2
    exit 1
fi
echo "as described"
