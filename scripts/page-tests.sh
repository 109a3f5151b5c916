#!/bin/sh
# Runs the browser tests of the bridge's page: the real programs, headless
# Chromium, no network.
#
#   scripts/page-tests.sh [--install] [files of tests/page, e.g. story.test.mjs]
#
# What drives the browser is pinned in tests/page and installed once into a
# cache outside the tree, and so are the engines (scripts/e2e-agents.sh). The
# tests then run in a network namespace that has only a loopback, and in a PID
# namespace, so that nothing outlives them. Pictures of what they saw are put
# into tests/page/screenshots, for people to look at.
# --install stops after everything is in place.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
pins=$root/tests/page
cache=${OBTO_PAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/obto-bridge-page}

name=page-tests
# shellcheck source=scripts/common.sh
. "$root/scripts/common.sh"

install_tools() {
    key=$(cat "$pins/package.json" "$pins/package-lock.json" | sha256sum | cut -c1-16)
    tools=$cache/$key
    [ -e "$tools/complete" ] && return
    say "installing what drives the browser into $tools"
    mkdir -p "$cache"
    # A half-done install must never be taken for a good one.
    new=$(mktemp -d "$cache/new.XXXXXX")
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    cp "$pins/package.json" "$pins/package-lock.json" "$pins/.npmrc" "$new/"
    (cd "$new" && npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error)
    put_in_place "$new" "$tools"
    trap - EXIT HUP INT TERM
}

only_install=
if [ "${1:-}" = --install ]; then
    only_install=1
    shift
fi
[ "$(uname -s)" = Linux ] || die "the tests need Linux network namespaces"
need node nodejs
need npm npm
need chromium chromium
install_tools
"$root/scripts/e2e-agents.sh" --install
[ -z "$only_install" ] || exit 0

require_namespaces

cd "$root"
# Together: for the binary alone cargo would compile everything again, without what tests need of it.
cargo build --locked --bin obto-bridge --example model-server --example asking-agent

engines=${OBTO_E2E_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/obto-bridge-e2e}
engine_pins=$(cat tests/e2e/engines/package.json tests/e2e/engines/package-lock.json | sha256sum | cut -c1-16)
export OBTO_E2E_ENGINES="$engines/$engine_pins"
target=${CARGO_TARGET_DIR:-$root/target}
export OBTO_PAGE_ROOT="$root"
export OBTO_PAGE_BINARY="$target/debug/obto-bridge"
export OBTO_PAGE_MODEL="$target/debug/examples/model-server"
export OBTO_PAGE_ASKER="$target/debug/examples/asking-agent"
OBTO_PAGE_CHROMIUM=$(command -v chromium)
export OBTO_PAGE_CHROMIUM
export OBTO_PAGE_SCREENSHOTS="$pins/screenshots"
mkdir -p "$OBTO_PAGE_SCREENSHOTS"

# Modules are found beside the files that use them, so these go where the tools
# are; the tree stays as it is.
run=$(mktemp -d "$tools/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
trap 'exit 1' HUP INT TERM
cp "$pins"/*.mjs "$run/"
cd "$run"
[ $# -gt 0 ] || set -- *.test.mjs
# Each file has a bridge and a browser of its own; two at a time is what a small
# machine takes.
# shellcheck disable=SC2016 # The inner shell expands its own arguments.
alone sh -c 'ip link set lo up && node --test --test-reporter=spec --test-concurrency=2 --test-timeout=240000 "$@"; exit $?' page-tests "$@"
