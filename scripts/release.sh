#!/usr/bin/env bash
# Builds the static binaries: with the embedded bridge, and client only, into target/release-static.
# Needs `rustup target add x86_64-unknown-linux-musl` and a C compiler; musl-gcc where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${1:-x86_64-unknown-linux-musl}
out=target/release-static
mkdir -p "$out"
rustup target list --installed | grep -qx "$target" || rustup target add "$target"

# ring and SQLite hold C. Debian's musl-tools gives musl-gcc; plain gcc serves for ring alone, since
# it includes no header of the C library.
underscored=${target//-/_}
if command -v musl-gcc >/dev/null; then
    export "CC_$underscored=musl-gcc"
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -q musl-tools >/dev/null
    export "CC_$underscored=musl-gcc"
else
    echo "musl-gcc is needed: install musl-tools" >&2
    exit 1
fi

build() { # name, cargo's arguments
    local name=$1
    shift
    cargo build --release --locked --target "$target" "$@"
    cp "target/$target/release/obto-bridge" "$out/$name"
    printf '%s: %s bytes, %s\n' "$out/$name" "$(stat -c %s "$out/$name")" \
        "$(file -b "$out/$name" 2>/dev/null | cut -d, -f1-4 || true)"
}
build obto-bridge
build obto-bridge-client --no-default-features
