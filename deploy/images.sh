#!/usr/bin/env bash
# Builds the image `services` with buildah, and checks it: runs a cluster in it.
#
# It needs root, buildah, debootstrap, iproute2, a Debian mirror and a package index, but no Docker and no image registry
# (apt-get install buildah debootstrap iproute2). The base is Debian bookworm with its
# Python 3.11, instead of python:3.11-slim-bookworm. DEBIAN_MIRROR names another mirror. BUILD_OPTIONS are options for
# `buildah bud`, such as "--volume /etc/pip.conf:/etc/pip.conf:ro" for a package index of your own.
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in buildah debootstrap ip; do
    command -v "$tool" >/dev/null || { echo "error: $tool: is not installed; apt-get install buildah debootstrap iproute2" >&2; exit 2; }
done
[ "$(id -u)" = 0 ] || { echo "error: user: debootstrap and a chroot need root; use sudo" >&2; exit 2; }
export BUILDAH_ISOLATION=chroot
base=localhost/python:3.11-slim-bookworm image=localhost/lookalike:0.1.0
work=$(mktemp -d)
container=
trap 'rm -rf "$work"; [ -z "$container" ] || buildah rm "$container" >/dev/null' EXIT

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    debootstrap --variant=minbase --include=python3,python3-venv,python3-pip,ca-certificates bookworm "$work/base" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$work/debootstrap.log" 2>&1 || { tail -n 5 "$work/debootstrap.log" >&2; exit 1; }
    ln -sf python3 "$work/base/usr/bin/python"
    rm -rf "$work/base/var/cache/apt/archives"/*.deb "$work/base/var/lib/apt/lists"/*
    container=$(buildah from scratch)
    buildah copy -q "$container" "$work/base" / >/dev/null
    buildah commit -q "$container" "$base" >/dev/null
    buildah rm "$container" >/dev/null
    container=
fi
# shellcheck disable=SC2086  # several options
buildah bud --network host --build-arg "PYTHON=$base" -f deploy/Containerfile --target services ${BUILD_OPTIONS:-} \
    -t "$image" . >"$work/build.log" 2>&1 || { tail -n 20 "$work/build.log" >&2; exit 1; }
buildah images --format '{{.Name}}:{{.Tag}} {{.Size}}' | grep -E '^localhost/(lookalike|python):'

# A cluster in a container, as the image's own user, on a loopback network of its own: 1,000 records stay complete when it
# grows from two to three partitions and when it restarts.
container=$(buildah from "$image")
cat >"$work/check.sh" <<'CHECK'
set -eu
[ "$(id -u)" = 10001 ]
printf 'partitions: 2\nencoder: null\nshard: {data: /var/lib/lookalike/data}\n' > /tmp/cluster.yaml
start() {
    lookalike up --config /tmp/cluster.yaml > /tmp/up.log 2>&1 &
    up=$!
    for _ in $(seq 120); do lookalike status >/dev/null 2>&1 && return; sleep 0.5; done
    cat /tmp/up.log >&2; exit 1
}
stop() { kill -TERM "$up"; wait "$up"; }
count() {
    python -c "
from lookalike import Client
with Client('127.0.0.1:7700') as client:
    found = client.search(code=bytes(8), collection='c', k=1_000)
    assert len(found.hits) == 1_000 and found.exact, found.coverage
    print(found.coverage.partitions, 'partitions:', len(found.hits), 'of 1,000 records')
"
}
start
python -c "
import os
from lookalike import Client, Record
with Client('127.0.0.1:7700') as client:
    client.create_collection('c', bits=64)
    client.upsert([Record(f'k{i}', code=os.urandom(8)) for i in range(1_000)], collection='c')
"
count
sed -i 's/partitions: 2/partitions: 3/' /tmp/cluster.yaml
for _ in $(seq 120); do [ "$(count | cut -c1)" = 3 ] && break; sleep 0.5; done
[ "$(count | cut -c1)" = 3 ] || { echo "error: the cluster still has two partitions" >&2; exit 1; }
count
stop
start
count
stop
CHECK
buildah copy -q "$container" "$work/check.sh" /check.sh >/dev/null
unshare -n bash -c "ip link set lo up && buildah run --network host --user 10001:10001 $container -- bash /check.sh"
