#!/usr/bin/env bash
# Builds the static binaries: with the embedded bridge, and client only, into target/release-static.
# Needs `rustup target add x86_64-unknown-linux-musl` and a C compiler; musl-gcc where there is one.
# It installs nothing, and nothing in the binaries tells where they were built.
set -euo pipefail
cd "$(dirname "$0")/.."
name=release
. scripts/common.sh

target=${1:-x86_64-unknown-linux-musl}
out=target/release-static
mkdir -p "$out"

# ring and SQLite hold C.
missing=
rustup target list --installed | grep -qx "$target" || missing+=" rustup target add $target;"
command -v musl-gcc >/dev/null || missing+=" install musl-gcc (Debian: apt-get install musl-tools);"
[ -z "$missing" ] || die "something is missing here:${missing%;}"
underscored=${target//-/_}
export "CC_$underscored=musl-gcc"

# Panics and assertions name their source files, those of the standard library too where its source
# is installed. Of several that fit the last one counts, for both compilers.
cargo fetch --locked --target "$target"
crates=${CARGO_HOME:-$HOME/.cargo}
built=${CARGO_TARGET_DIR:-$PWD/target}
rust=$(rustc --print sysroot)
flags=${CARGO_ENCODED_RUSTFLAGS:-}
c_flags=${CFLAGS:-}
map() { # a path, its name
    flags+=${flags:+$'\x1f'}--remap-path-prefix=$1=$2
    c_flags+=" -ffile-prefix-map=$1=$2"
}
map "$HOME" /home
map "$rust" /rust
map "$crates" /cargo
for registry in "$crates"/registry/src/*; do map "$registry" /crates; done
map "$PWD" /obto-bridge
map "$built" /target
export CARGO_ENCODED_RUSTFLAGS=$flags CFLAGS=$c_flags

no_build_paths() { # a binary
    local path
    for path in "$HOME/" "$crates/" "$PWD/" "$built/" "$rust/" /registry/src/ /.cargo/; do
        if grep -qaF -- "$path" "$1"; then
            strings "$1" | grep -F -m 3 -- "$path" >&2 || true
            die "$1 tells where it was built: $path"
        fi
    done
}

build() { # name, cargo's arguments
    local binary=$1
    shift
    cargo build --release --locked --target "$target" "$@"
    no_build_paths "$built/$target/release/obto-bridge"
    cp "$built/$target/release/obto-bridge" "$out/$binary"
    printf '%s: %s bytes, %s\n' "$out/$binary" "$(stat -c %s "$out/$binary")" \
        "$(file -b "$out/$binary" 2>/dev/null | cut -d, -f1-4 || true)"
}
build obto-bridge
build obto-bridge-client --no-default-features
