#!/bin/sh
# Generates the secrets that compose.yaml mounts, if they do not exist. They must be readable by user 10001.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
draw() { [ -e "secrets/$1" ] || head -c 48 /dev/urandom | base64 | tr -d '\n' > "secrets/$1"; }
draw cluster_secret
draw grafana_password
# While this file holds no key, every client has full access; `lookalike keys` adds keys.
[ -e secrets/keys.json ] || printf '{"keys": []}\n' > secrets/keys.json
chmod 0711 secrets
chmod 0444 secrets/*
