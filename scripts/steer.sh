#!/bin/sh
# Puts Egret's packet rules, routes and kernel settings in place (up), takes them away (down), or says how they are
# (status). Run as root. docs/steering.md explains what they are.
set -eu

usage() {
    cat <<'USAGE'
usage: steer.sh up|guard|down|status [--config FILE] [--egret PATH] [--format iptables|nftables] [--keep FOLDER]

  up       put everything in place; run it again after a change of the configuration
  guard    until `up` has succeeded, forward nothing; does nothing if it has since the boot. Needs no configuration
  down     take everything away and restore what was there before; needs no configuration
  status   exit 0 if everything is in place, else 1

  --config FILE   default: $EGRET_CONFIG, else /etc/egret/egret.toml
  --egret PATH    the egret binary; default: $EGRET, then PATH, then target/release and target/debug beside this script
  --format NAME   iptables (default) or nftables; `up` replaces the other one, `status` finds out by itself
  --keep FOLDER   `up` keeps the rules there once they are in place. If the configuration cannot be used later, it puts these
                  in place instead, says so, and exits with 1. Root's alone: what is kept there is run as root

Exit code 2: nothing was put in place. GUARD_INTERFACES in the environment names the interfaces that `guard` is for,
separated by spaces; all of them unless given.
USAGE
}

# Under systemd, lines for the journal carry their priority (sd-daemon(3)): 3 is an error, 4 a warning.
priority() {
    if [ -n "${JOURNAL_STREAM:-}" ] && [ "$(stat -L -c %d:%i /proc/self/fd/2)" = "$JOURNAL_STREAM" ]; then
        printf '<%s>' "$1"
    fi
}
# Standard input, line by line, to standard error.
tell() { # PRIORITY
    mark=$(priority "$1")
    while IFS= read -r line; do printf '%s%s\n' "$mark" "$line" >&2; done
}
fail() {
    printf 'steer.sh: %s\n' "$*" | tell 3
    exit 2
}

command=
config=${EGRET_CONFIG:-/etc/egret/egret.toml}
egret=${EGRET:-}
format=
kept=
while [ $# -gt 0 ]; do
    case $1 in
        up | guard | down | status) [ -z "$command" ] || fail "one of up, guard, down, status, please"; command=$1 ;;
        --config | --egret | --format | --keep)
            [ $# -ge 2 ] || fail "$1 wants a value"
            case $1 in --config) config=$2 ;; --egret) egret=$2 ;; --keep) kept=$2/steering.sh ;; *) format=$2 ;; esac
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -n "$command" ] || { usage >&2; exit 2; }
case $format in '' | iptables | nftables) ;; *) fail "--format is iptables or nftables, not $format" ;; esac

find_egret() {
    if [ -n "$egret" ]; then return; fi
    if egret=$(command -v egret); then return; fi
    here=$(dirname "$0")
    for build in release debug; do
        egret=$here/../target/$build/egret
        if [ -x "$egret" ]; then return; fi
    done
    fail "no egret binary found: build one (cargo build --release) or give --egret PATH"
}

# /usr/sbin holds ip, iptables and nft, and is not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# What `up` records of this boot; root's alone.
state=${EGRET_STEERING_STATE:-/run/egret-steering/state}
# Is there while `up` has succeeded since the boot.
marker=${state%/*}/up
# Says why the last good rules are in force, if they are.
fallback=${state%/*}/fallback

# --- forwarding, until there are rules
# Rules of policy routing and not packet rules: nobody's `flush ruleset` removes them, they need no packet filter, and
# exist before the interfaces do. Right after the local table, so that the machine itself stays reachable.

guard_protocol=231 # tells them from the rules of `up`

families() { if [ -e /proc/net/if_inet6 ]; then echo -4 -6; else echo -4; fi; }
guard() {
    if [ -e "$marker" ]; then return 0; fi
    for family in $(families); do
        if [ -z "${GUARD_INTERFACES:-}" ]; then
            refuse "$family" not iif lo
        else
            for interface in $GUARD_INTERFACES; do
                refuse "$family" iif "$interface"
            done
        fi
    done
}
# Unless it is refused already: there is no moment in between.
refuse() { # -4|-6 WHAT...
    family=$1
    shift
    if ! said=$(ip "$family" rule add pref 1 "$@" blackhole protocol $guard_protocol 2>&1); then
        case $said in *"File exists"*) ;; *) fail "forwarding cannot be stopped: $said" ;; esac
    fi
}
is_guarded() { ip rule show | grep "proto $guard_protocol" >/dev/null; }
lift_guard() { for family in $(families); do ip "$family" rule flush protocol $guard_protocol; done; }

# --- up

# The whole script is there before any of it runs: if egret fails, nothing has changed. Yields what was said, if it fails.
attempt() { # WHAT COMMAND...
    if ! said=$("$@" 2>&1 >"$scratch"); then
        why=${said:-"$1 failed"}
        return 1
    fi
    if [ -n "$said" ]; then printf '%s\n' "$said" | tell 4; fi
    run_script "$scratch" || return 1
}
run_script() { # FILE
    if ! said=$(sh "$1" 2>&1); then
        why=${said:-the script failed}
        return 1
    fi
    if [ -n "$said" ]; then printf '%s\n' "$said" | tell 4; fi
}
# Whole or not at all, also if the power fails.
keep() {
    if [ -z "$kept" ]; then return 0; fi
    if ! { mkdir -p "${kept%/*}" && chmod 700 "${kept%/*}" && cp "$scratch" "$kept.new" && sync "$kept.new" &&
        mv "$kept.new" "$kept"; }; then
        printf 'steer.sh: the rules could not be kept in %s for the case that the configuration breaks\n' "${kept%/*}" | tell 3
    fi
}
in_place() {
    : >"$marker"
    lift_guard
}
up() {
    find_egret
    umask 077
    # Not in /tmp, which is cleared while the machine boots.
    mkdir -p "${state%/*}"
    scratch=${state%/*}/new.$$
    trap 'rm -f "$scratch"' EXIT
    trap 'exit 143' INT TERM HUP
    if attempt "$egret" steering print --config "$config" --format "${format:-iptables}"; then
        in_place
        rm -f "$fallback"
        keep
        return 0
    fi
    printf '%s\n' "$why" | tell 3
    refused=$why
    if [ -z "$kept" ] || [ ! -f "$kept" ]; then
        is_guarded && guarded="; until it is, nothing is forwarded (\`steer.sh down\` lifts that)"
        fail "no steering was put in place${kept:+, and no earlier rules are kept}${guarded:-}"
    fi
    if ! run_script "$kept"; then
        printf '%s\n' "$why" | tell 3
        fail "the last good rules in $kept cannot be put in place either"
    fi
    in_place
    printf '%s\n' "$refused" >"$fallback"
    printf 'steer.sh: the last good rules, of %s, are in force instead (%s). Fix the configuration, then: systemctl restart egret-steering\n' \
        "$(date -r "$kept" '+%Y-%m-%d %H:%M')" "$kept" | tell 3
    return 1
}

case $command in
    up) up ;;
    guard) guard ;;
    down)
        find_egret
        script=$("$egret" steering print --down)
        printf '%s\n' "$script" | sh -s
        lift_guard
        rm -f "$marker" "$fallback" "${state%/*}"/new.*
        rmdir "${state%/*}" 2>/dev/null || :
        ;;
    status)
        find_egret
        set -- steering status --config "$config"
        [ -z "$format" ] || set -- "$@" --format "$format"
        exec "$egret" "$@"
        ;;
esac
