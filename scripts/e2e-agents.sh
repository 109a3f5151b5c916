#!/bin/sh
# Runs the end-to-end tests: the real engines, a scripted model, no network.
#
#   scripts/e2e-agents.sh [--install] [cargo test arguments, e.g. smoke::claude -- --nocapture]
#
# The engines are pinned in tests/e2e/engines and installed once into a cache
# outside the tree. The tests then run in a network namespace that has only a
# loopback, so that no engine can reach anything but the scripted model, and in
# a PID namespace, so that nothing outlives them.
# --install stops after the engines are in place.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
pins=$root/tests/e2e/engines
cache=${OBTO_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/obto-bridge-e2e}

name=e2e-agents
# shellcheck source=scripts/common.sh
. "$root/scripts/common.sh"

install_engines() {
    key=$(cat "$pins/package.json" "$pins/package-lock.json" | sha256sum | cut -c1-16)
    engines=$cache/$key
    [ -e "$engines/complete" ] && return
    need npm npm
    need node nodejs
    say "installing the engines into $engines"
    mkdir -p "$cache"
    # A half-done install must never be taken for a good one, nor mixed with
    # that of a second run: everything happens in a directory of its own.
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    cp "$pins/package.json" "$pins/package-lock.json" "$pins/.npmrc" "$new/"
    # Not "npm ci", which refuses a lock without the packages that opencode has
    # for other systems. npm versions differ in which install scripts they run,
    # so none is left to them; two engines need theirs to put the native program
    # in place.
    (cd "$new" && npm install --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error)
    # Some npm versions leave out a program that is called like their own.
    (cd "$new/node_modules/.bin" && ln -sf ../node-linux-*/bin/node node)
    (cd "$new/node_modules/@anthropic-ai/claude-code" && node install.cjs)
    (cd "$new/node_modules/opencode-ai" && node postinstall.mjs)
    # It unpacks itself when it starts for the first time, and a test's home is always new.
    COPILOT_SEA_EXTRACT_ONLY=1 COPILOT_PKG_CACHE_HOME="$new/copilot" HOME="$new" "$new/node_modules/.bin/copilot"
    [ -d "$new/copilot/pkg" ] || die "copilot did not unpack itself"
    for engine in node claude claude-code-acp codex codex-acp copilot gemini opencode qwen; do
        [ -x "$new/node_modules/.bin/$engine" ] || die "the install brought no $engine"
    done
    put_in_place "$new" "$engines"
    trap - EXIT HUP INT TERM
}

only_install=
if [ "${1:-}" = --install ]; then
    only_install=1
    shift
fi
[ "$(uname -s)" = Linux ] || die "the tests need Linux network namespaces"
install_engines
[ -z "$only_install" ] || exit 0

require_namespaces

cd "$root"
cargo build --example fake-agent --locked
cargo test --test e2e --no-run --locked

export OBTO_E2E_ENGINES="$engines"
export CARGO_NET_OFFLINE=true
# A turn of an engine takes 0.3 GB and half a second of one processor. The tests
# spend most of their time waiting, for retries and for processes to leave.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-4}"
# The shell stays, as the init that reaps what the tests leave behind.
# shellcheck disable=SC2016 # The inner shell expands its own arguments.
alone sh -c 'ip link set lo up && cargo test --test e2e --locked "$@"; exit $?' e2e-agents "$@"
