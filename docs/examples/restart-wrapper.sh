#!/bin/sh
# Keeps a daemon running where there is no service manager, and reads its exit codes: what may get better by
# itself is tried again, more and more slowly; what a person has to mend ends it.
#
#   restart-wrapper.sh [options of `obto-bridge start`]
set -u

pause=1 asked=
while :; do
    began=$(date +%s)
    obto-bridge start --exit-on-auth-failure "$@" &
    daemon=$!
    # What the wrapper is told, the daemon is told.
    trap 'asked=1; kill -TERM "$daemon" 2>/dev/null' TERM INT
    wait "$daemon"
    code=$?
    # A signal ends the wait before the daemon, which is on its way out then.
    while [ -n "$asked" ]; do
        wait "$daemon"
        code=$?
        kill -0 "$daemon" 2>/dev/null || break
    done
    trap - TERM INT
    case $code in
        # Asked to stop, or told to end by an option.
        0) exit 0 ;;
        # Another one runs; the command line, the token or the configuration is wrong.
        2 | 15 | 75 | 77 | 78) exit "$code" ;;
    esac
    [ -z "$asked" ] || exit "$code"
    # One that ran for a while begins anew at once.
    [ $(($(date +%s) - began)) -lt 60 ] || pause=1
    echo "obto-bridge ended with $code; again in $pause s" >&2
    sleep "$pause"
    [ "$pause" -ge 60 ] || pause=$((pause * 2))
done
