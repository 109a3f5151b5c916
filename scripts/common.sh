# What the scripts of the end-to-end and the browser tests share; they source it with `name` set.
# shellcheck shell=sh

say() { printf '%s: %s\n' "$name" "$*" >&2; }
die() { say "$*"; exit 1; }

# Installs a Debian package when its command is missing, and only then.
need() {
    command -v "$1" >/dev/null 2>&1 && return
    [ "$(id -u)" -eq 0 ] || die "$1 is missing: install the package $2"
    command -v apt-get >/dev/null 2>&1 || die "$1 is missing and there is no apt-get to install $2 with"
    say "installing $2 for $1"
    [ -n "${apt_updated:-}" ] || apt-get update -qq
    apt_updated=1
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

# A user who isn't root becomes root of a user namespace, which is enough to
# own the other namespaces.
alone() {
    set -- --net --pid --fork --kill-child --mount-proc "$@"
    if [ "$(id -u)" -eq 0 ]; then unshare "$@"; else unshare --map-root-user "$@"; fi
}

# Whether the tests can be kept to themselves here.
require_namespaces() {
    need ip iproute2
    alone true 2>/dev/null ||
        die "unshare --net is not permitted here: run as root with CAP_SYS_ADMIN (docker run --privileged), or allow user namespaces"
}

# Puts the directory $1, which is complete now, at the place $2. Another run may have been faster;
# its install is as good as ours.
put_in_place() {
    : >"$1/complete"
    mv -T "$1" "$2" 2>/dev/null || [ -e "$2/complete" ] || die "can't move $1 to $2"
    rm -rf "$1"
}
