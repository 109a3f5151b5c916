#!/usr/bin/env bash
# What must hold for every commit: form, lints, tests, the client-only build, documentation.
# Needs Rust and a C compiler (SQLite is compiled in); nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

# Whatever the tests have started has ended with them.
nothing_runs() {
    local examples=${CARGO_TARGET_DIR:-$PWD/target}/debug/examples process left=
    for _ in 1 2 3 4 5; do
        left=
        for process in /proc/[0-9]*; do
            case "$(readlink "$process/exe")" in
                "$examples"/*) left+="$(tr '\0' ' ' <"$process/cmdline")"$'\n' ;;
            esac
        done
        [ -n "$left" ] || return 0
        sleep 1
    done
    printf 'still running:\n%s' "$left" >&2
    return 1
}

step() { printf '\n== %s\n' "$*"; "$@"; }

step cargo fmt --check
step cargo clippy --all-targets --locked -- -D warnings
# Not of all targets, since they run by scripts of their own.
step cargo clippy --test e2e --test network --locked -- -D warnings
# What people run first.
step cargo test --locked
step nothing_runs
# The build for CI runners: no server, no SQLite.
step cargo clippy --all-targets --locked --no-default-features -- -D warnings
step cargo build --locked --no-default-features
# Neither in the tree at all, nor, where ureq needs it as well, as a dependency of ours.
client() { cargo tree --locked --no-default-features --edges normal --prefix none "$@"; }
if client | grep -E '^(rusqlite|libsqlite3-sys|argon2|pulldown-cmark) ' ||
    client --depth 1 | grep -E '^httparse '; then
    echo "the client-only build depends on the server's crates" >&2
    exit 1
fi
# The binary just built has no page, no route of the server's own and no schema.
for word in '<!doctype html' '<!DOCTYPE html' '/api/session' '/readyz' 'CREATE TABLE'; do
    if grep -qaF -- "$word" target/debug/obto-bridge; then
        echo "the client-only build contains the server: $word" >&2
        exit 1
    fi
done
RUSTDOCFLAGS="-D warnings" step cargo doc --locked --no-deps --document-private-items
