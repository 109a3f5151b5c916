#!/usr/bin/env bash
# Builds the static binaries: with the embedded bridge, and client only, into target/release-static.
#
#   scripts/release.sh                               for x86_64
#   scripts/release.sh aarch64-unknown-linux-musl    for aarch64, on a machine of either kind
#
# Needs the target (`rustup target add`), a C compiler for it and musl's headers; it says what is
# missing. It installs nothing, and nothing in the binaries tells where they were built.
set -euo pipefail
cd "$(dirname "$0")/.."
name=release
. scripts/common.sh

target=${1:-x86_64-unknown-linux-musl}
machine=${target%%-*}
out=target/release-static
[ "$target" = x86_64-unknown-linux-musl ] || out=target/release-static-$machine
mkdir -p "$out"

# ring, mimalloc and SQLite hold C.
missing=
rustup target list --installed | grep -qx "$target" || missing+=" rustup target add $target;"
if [ "$machine" = "$(uname -m)" ]; then
    compiler=musl-gcc package=musl-tools
else
    compiler=$machine-linux-gnu-gcc package=gcc-${machine//_/-}-linux-gnu
fi
command -v "$compiler" >/dev/null || missing+=" install $compiler (Debian: apt-get install $package);"
headers=/usr/include/$machine-linux-musl
if [ "$compiler" != musl-gcc ] && ! [ -d "$headers" ]; then
    missing+=" install musl's headers (Debian: dpkg --add-architecture DEBIAN_ARCH && apt-get install"
    missing+=" musl-dev:DEBIAN_ARCH, where DEBIAN_ARCH is arm64 for aarch64, amd64 for x86_64);"
fi
[ -z "$missing" ] || die "something is missing here:${missing%;}"
underscored=${target//-/_}
export "CC_$underscored=$compiler"
c_flags=${CFLAGS:-}
if [ "$compiler" != musl-gcc ]; then
    export "CARGO_TARGET_$(tr a-z A-Z <<<"$underscored")_LINKER=$compiler"
    # Its own headers are those of glibc.
    c_flags+=" -nostdinc -isystem $headers -isystem $("$compiler" -print-file-name=include)"
fi

# Panics and assertions name their source files, those of the standard library too where its source
# is installed. Of several that fit the last one counts, for both compilers.
cargo fetch --locked --target "$target"
crates=${CARGO_HOME:-$HOME/.cargo}
built=${CARGO_TARGET_DIR:-$PWD/target}
rust=$(rustc --print sysroot)
flags=${CARGO_ENCODED_RUSTFLAGS:-}
# Where the parts of the file are that its start has to move, in less space. musl has read that since 1.2.4.
flags+=${flags:+$'\x1f'}-Clink-arg=-Wl,-z,pack-relative-relocs
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
