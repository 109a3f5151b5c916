#!/bin/sh
# Runs the network tests: the real program behind real proxies, gateways and name servers
# (tests/it/network), in a network namespace that has only a loopback.
#
#   scripts/network-tests.sh [--install] [cargo test arguments]
#
# --install stops after the servers are in place.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

name=network-tests
# shellcheck source=scripts/common.sh
. "$root/scripts/common.sh"

PATH=$PATH:/usr/sbin:/sbin
need squid squid
need tinyproxy tinyproxy
need stunnel4 stunnel4
need microsocks microsocks
need nginx nginx-light
need htpasswd apache2-utils
need openssl openssl
need ss iproute2
need python3 python3
[ "${1:-}" != --install ] || exit 0
require_namespaces

cd "$root"
cargo test --locked --test network --no-run
bridge=${CARGO_TARGET_DIR:-$root/target}/debug/obto-bridge
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
chmod 755 "$dir"
export OBTO_NETWORK_DIR="$dir" CARGO_NET_OFFLINE=true
# nginx's log says by which way each request came, so there is one at a time.
export RUST_TEST_THREADS=1
# shellcheck disable=SC2016 # The inner shell expands its own arguments.
alone --mount sh -c 'servers=$1 dir=$2 bridge=$3; shift 3
    sh "$servers" "$dir" "$bridge" || { tail -n 3 "$dir"/openssl.log >&2; exit 1; }
    cargo test --locked --test network "$@"; exit $?' \
    network-tests tests/it/network/servers.sh "$dir" "$bridge" "$@"
