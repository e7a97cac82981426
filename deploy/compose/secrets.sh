#!/bin/sh
# Draws the secrets that compose.yaml mounts, where there are none yet. They are for the containers' user, 10001.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
draw() { [ -e "secrets/$1" ] || head -c 48 /dev/urandom | base64 | tr -d '\n' > "secrets/$1"; }
draw cluster_secret
draw grafana_password
# Without a key in it everyone may do everything; `lookalike keys` adds them.
[ -e secrets/keys.json ] || printf '{"keys": []}\n' > secrets/keys.json
chmod 0711 secrets
chmod 0444 secrets/*
