#!/usr/bin/env bash
# Builds both images of the Containerfile with buildah, prints their sizes, and runs the cluster of deploy/compose from
# them with crun: `make setup && sudo deploy/images.sh`.
#
# It needs root, a Debian mirror and a package index, but no Docker and no image registry. The base is Debian bookworm
# with its Python 3.11, without what slim images leave out, instead of python:3.11-slim-bookworm. DEBIAN_MIRROR names
# another mirror. pip in the build is configured like pip here. BUILD_OPTIONS are further options for `buildah bud`, such
# as "--build-arg TORCH_INDEX=URL". The images stay in buildah's storage.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
max_services_mb=500
base=localhost/python:3.11-slim-bookworm
services=lookalike:0.1.0 encoder=lookalike-encoder:0.1.0

fail() { echo "error: $1" >&2; exit "${2:-1}"; }
for tool in buildah debootstrap crun ip; do
    command -v "$tool" >/dev/null || fail "$tool: is not installed; apt-get install buildah debootstrap crun iproute2" 2
done
[ -x "$python" ] || fail "$python: is missing; run make setup" 2
[ "$(id -u)" = 0 ] || fail "user: mounts and namespaces need root; use sudo" 2
export BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
containers=()
clean() {
    [ ${#containers[@]} = 0 ] || buildah rm "${containers[@]}" >/dev/null || true
    rm -rf "$work"
}
trap clean EXIT

# Runs a command, and shows the end of its output only if it fails. The first argument names it.
quietly() {
    local name=$1 began=$SECONDS
    shift
    "$@" >"$work/$name.log" 2>&1 || { tail -n 30 "$work/$name.log" >&2; fail "$name: failed"; }
    echo "$name: $((SECONDS - began)) s"
}

make_base() {
    local root=$work/base container
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$root" \
        ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"}
    ln -sf python3 "$root/usr/bin/python"
    rm -rf "$root"/var/{cache/apt,cache/debconf,lib/apt/lists,log}/* "$root"/usr/share/{doc,man,info,locale}/*
    container=$(buildah from scratch)
    containers+=("$container")
    buildah copy -q "$container" "$root" /
    # Docker's format keeps HEALTHCHECK.
    buildah commit -q --format docker "$container" "$base"
    rm -rf "$root"
}

build() {
    # shellcheck disable=SC2086  # several options
    buildah bud --format docker --network host --build-arg "PYTHON=$base" -f deploy/Containerfile --target "$1" \
        "${pip_options[@]}" ${BUILD_OPTIONS:-} -t "localhost/$2" .
}

# The size of an image's layers, in megabytes.
size_mb() {
    buildah inspect --type image --format '{{.Manifest}}' "$1" \
        | "$python" -c 'import json, sys; print(round(sum(one["size"] for one in json.load(sys.stdin)["layers"]) / 1e6))'
}

report_size() {
    local all
    all=$(size_mb "localhost/$1")
    echo "$1: $all MB, of which $base_mb MB are the base"
}

# Writes what the cluster needs to know of an image.
mount_image() {
    local container
    container=$(buildah from "localhost/$1")
    containers+=("$container")
    buildah mount "$container" >"$work/$1.root"
    buildah inspect --type image "localhost/$1" >"$work/$1.json"
}

mapfile -t pip_options < <("$python" -m tests.deploy.images.pip_options "$work")
[ ${#pip_options[@]} -gt 0 ] || fail "pip: its config cannot be read"
buildah inspect --type image "$base" >/dev/null 2>&1 || quietly base make_base
base_mb=$(size_mb "$base")
quietly services build services "$services"
report_size "$services"
[ "$(size_mb "localhost/$services")" -lt "$max_services_mb" ] || fail "services: is not below $max_services_mb MB"
quietly encoder build encoder "$encoder"
report_size "$encoder"
mount_image "$services"
mount_image "$encoder"
unshare --net --mount --pid --fork --mount-proc --kill-child "$python" -m tests.deploy.images "$work"
