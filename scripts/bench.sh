#!/usr/bin/env bash
# Measures the release binary against the bar and prints a table: about seven minutes after the builds.
#
#   scripts/bench.sh                  everything
#   scripts/bench.sh ours burst       some groups: machine start idle ours unclaimed burst asking
#                                     bindings reconnect event serve load installed
#   scripts/bench.sh --static ours    the static binary of scripts/release.sh instead
#   scripts/bench.sh --program P ours another build of the daemon, for a comparison
#
# Absolute figures drift with the machine's neighbours: compare two tables of one hour.
set -euo pipefail
cd "$(dirname "$0")/.."

out=target/bench
mkdir -p "$out"
# The temporary homes of a run that was killed.
find "$out" -mindepth 1 -maxdepth 1 -name '.tmp*' -exec rm -rf {} +

program= use_static= groups=()
while [ $# -gt 0 ]; do
    case $1 in
    --static) use_static=1 ;;
    --program) shift && program=${1:?a path} ;;
    *) groups+=("$1") ;;
    esac
    shift
done
wants() { # a group
    [ ${#groups[@]} -eq 0 ] || [[ " ${groups[*]} " == *" $1 "* ]]
}

binaries=()
weigh() { # label, path
    [ -f "$2" ] && binaries+=(--binary "$1=$2")
}

if wants installed; then
    cargo build --release --locked --no-default-features
    cp target/release/obto-bridge "$out/obto-bridge-client"
    weigh "client only" "$out/obto-bridge-client"
fi
if [ -n "$use_static" ] || wants installed; then
    if command -v musl-gcc >/dev/null && rustup target list --installed | grep -q musl; then
        scripts/release.sh
        weigh "static" target/release-static/obto-bridge
        weigh "static, client only" target/release-static/obto-bridge-client
    else
        echo "no musl target or no musl-gcc: the static binaries are left out" >&2
    fi
fi
if [ -z "$program" ]; then
    cargo build --release --locked
    cp --remove-destination target/release/obto-bridge "$out/obto-bridge"
    weigh "with the bridge" "$out/obto-bridge"
    program=$out/obto-bridge
    [ -z "$use_static" ] || program=target/release-static/obto-bridge
fi

# Without cargo, so that it is static: the dynamic linker is not what is measured.
rustc --edition 2024 -O -C panic=abort -C strip=symbols \
    -C relocation-model=static -C target-feature=+crt-static \
    -o "$out/instant-agent" tests/bench/instant_agent.rs
cargo build --release --locked --example bench

exec target/release/examples/bench --program "$program" --agent "$out/instant-agent" \
    --dir "$out" ${binaries[@]+"${binaries[@]}"} ${groups[@]+"${groups[@]}"}
