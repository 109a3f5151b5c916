#!/bin/sh
# Runs the policy against real shells: what it allows of random command lines is run by every shell,
# with stand-ins for all programs (tests/it/shells).
#
#   scripts/shell-tests.sh [--install]
#
# OBTO_FUZZ_SECONDS says for how long (20), OBTO_FUZZ_SEED which lines. Plain `cargo test` does the
# same for a few seconds with the shells that are there.
# --install stops after the shells are in place.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

name=shell-tests
# shellcheck source=scripts/common.sh
. "$root/scripts/common.sh"

for shell in bash dash zsh fish ksh mksh tcsh; do
    need "$shell" "$shell"
done
[ "${1:-}" != --install ] || exit 0

cd "$root"
export OBTO_FUZZ_SECONDS="${OBTO_FUZZ_SECONDS:-20}"
cargo test --locked --test it shells:: -- --nocapture
