#!/usr/bin/env bash
# Measures the release binary against the bar and prints a table: medians, and the spread between rounds.
#
#   scripts/bench.sh                     everything, in seven minutes after the builds
#   scripts/bench.sh ours burst          some groups: machine start idle ours unclaimed engines burst
#                                        bound asking bindings event syscalls reconnect cut serve writers load installed
#   scripts/bench.sh --against PATH      another build of the daemon in turn with this one, and the ratio
#   scripts/bench.sh --rounds N          how often (3); what takes a minute is measured once
#   scripts/bench.sh --dir PATH          on the disk of this directory (target/bench); /dev/shm is a tmpfs
#   scripts/bench.sh --write-iops N      as if the disk made at most N writes a second; a volume of a cloud
#                                        often makes 3,000. For root, where Linux can limit that
#   scripts/bench.sh --json              one JSON object a line; the table goes to standard error
#   scripts/bench.sh --static            the static binary of scripts/release.sh instead
#   scripts/bench.sh --program PATH      a binary that is there already
#   scripts/bench.sh --short [REVISION]  what the gate measures, of this tree against the commit before it
#                                        (or REVISION) in turn: fails if a row got worse by half
#
# The first object of --json is {"machine", "disk": {"dir", "fileSystem", "device", "appendMs" (append +
# fdatasync), "replaceMs" (file + fsync + rename + directory)}}; each other one is a row:
#   group, metric, unit    what was measured
#   ours                   {"value": the median of the rounds, or their highest where it must be low in
#                          each; "low", "high"; "rounds": in order}; a figure that failed is null
#   against, ratio         the same of the other build, and ours / against; null without one
#   worse                  more than half worse in the median and in the best round, beyond noise
#   bar, met               what it must not exceed, null if nothing is asked, and whether it does not
#   notes                  of the round with the highest value
#
# Absolute figures drift with the machine's neighbours: compare what was measured in turn.
set -euo pipefail
cd "$(dirname "$0")/.."

program='' use_static='' short='' revision='' iops='' out=target/bench arguments=() groups=()
while [ $# -gt 0 ]; do
    case $1 in
    --static) use_static=1 ;;
    --program) shift && program=${1:?a path} ;;
    --dir) shift && out=${1:?a path}/obto-bridge-bench ;;
    --against | --rounds) arguments+=("$1" "${2:?a value}") && shift ;;
    --write-iops) shift && iops=${1:?a number} ;;
    --json) arguments+=("$1") ;;
    --short) short=1 ;;
    -*) echo "unknown option $1; the options are at the top of $0" >&2 && exit 64 ;;
    *) groups+=("$1") ;;
    esac
    shift
done
[ -z "$short" ] || { revision=${groups[0]:-} && groups=() && out=target/bench-short; }
mkdir -p "$out" target/bench
# The temporary homes of a run that was killed.
find "$out" -mindepth 1 -maxdepth 1 -name '.tmp*' -exec rm -rf {} +

wants() { # a group
    [ ${#groups[@]} -eq 0 ] || [[ " ${groups[*]} " == *" $1 "* ]]
}

binaries=()
weigh() { # label, path
    [ -f "$2" ] && binaries+=(--binary "$1=$2")
}

# Without cargo, so that it is static: the dynamic linker is not what is measured.
build_agent() {
    rustc --edition 2024 -O -C panic=abort -C strip=symbols \
        -C relocation-model=static -C target-feature=+crt-static \
        -o target/bench/instant-agent tests/bench/instant_agent.rs
}

# Two builds that take less time than a release and differ from it alike, in one target directory:
# what they depend on is built once.
short() {
    local before=$revision
    if [ -z "$before" ]; then
        # Changes that are not committed are compared with the commit that they change.
        if git diff --quiet HEAD 2>/dev/null; then before=HEAD~1; else before=HEAD; fi
    fi
    if ! before=$(git rev-parse --verify --quiet "$before^{commit}"); then
        echo "bench: skipped, since there is no commit before this one to compare with (a shallow clone?)"
        return
    fi
    if git diff --quiet "$before" -- src Cargo.toml Cargo.lock; then
        echo "bench: skipped, since the program is that of $before"
        return
    fi
    local sources=$out/sources
    rm -rf "$sources" && mkdir "$sources"
    # With the time of now, not of the commit: cargo builds what is newer than its last build.
    git archive "$before" | tar -xm -C "$sources"
    quick() { # a directory, and where its binary goes
        # What is built of the one is fresh to cargo when it looks at the other.
        (cd "$1" && cargo clean --quiet --release --package obto-bridge --target-dir "$target" &&
            CARGO_TARGET_DIR=$target CARGO_PROFILE_RELEASE_LTO=off \
            CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 \
            cargo build --release --locked --no-default-features --bin obto-bridge)
        cp --remove-destination "$target/release/obto-bridge" "$2"
    }
    local target=$PWD/$out/target
    quick "$sources" "$out/before"
    quick . "$out/now"
    build_agent
    # The instruments as the tests have built them.
    cargo build --locked --example bench
    "${CARGO_TARGET_DIR:-target}/debug/examples/bench" --program "$out/now" --against "$out/before" \
        --agent target/bench/instant-agent --dir "$out" --short --rounds 5 \
        ${arguments[@]+"${arguments[@]}"}
}

if [ -n "$short" ]; then
    short
    exit
fi

if wants installed; then
    cargo build --release --locked --no-default-features
    cp target/release/obto-bridge target/bench/obto-bridge-client
    weigh "client only" target/bench/obto-bridge-client
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
    cp --remove-destination target/release/obto-bridge target/bench/obto-bridge
    weigh "with the bridge" target/bench/obto-bridge
    program=target/bench/obto-bridge
    [ -z "$use_static" ] || program=target/release-static/obto-bridge
fi
build_agent
cargo build --release --locked --example bench

# Puts this shell, and so what it starts, into a control group of its own.
limit_writes() {
    local device whole root=/sys/fs/cgroup
    device=$(stat -c %Hd:%Ld "$out")
    # The limit is of the whole disk.
    whole=$(readlink -f "/sys/dev/block/$device")/..
    [ ! -e "/sys/dev/block/$device/partition" ] || device=$(cat "$whole/dev")
    if [ -e $root/cgroup.controllers ]; then
        echo +io >$root/cgroup.subtree_control
        group=$root/obto-bridge-bench limit=io.max value="$device wiops=$iops"
    else
        group=$root/blkio/obto-bridge-bench limit=blkio.throttle.write_iops_device value="$device $iops"
    fi
    mkdir -p "$group"
    trap 'echo $$ >"${group%/*}/cgroup.procs" && rmdir "$group"' EXIT
    echo "$value" >"$group/$limit"
    echo $$ >"$group/cgroup.procs"
}
if [ -n "$iops" ]; then
    [[ $iops =~ ^[1-9][0-9]*$ ]] || { echo "--write-iops $iops: not a number of writes a second" >&2 && exit 64; }
    limit_writes
    echo "the disk of $out makes at most $iops writes a second" >&2
fi

target/release/examples/bench --program "$program" --agent target/bench/instant-agent --dir "$out" \
    ${binaries[@]+"${binaries[@]}"} ${arguments[@]+"${arguments[@]}"} ${groups[@]+"${groups[@]}"}
