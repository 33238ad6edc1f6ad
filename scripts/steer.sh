#!/bin/sh
# Puts Egret's packet rules, routes and kernel settings in place (up), takes them away (down), or says how they are
# (status). Run as root. docs/steering.md explains what they are.
set -eu

usage() {
    cat <<'USAGE'
usage: steer.sh up|down|status [--config FILE] [--egret PATH] [--format iptables|nftables]

  up       put everything in place; run it again after a change of the configuration
  down     take everything away and restore what was there before; needs no configuration
  status   exit 0 if everything is in place, else 1

  --config FILE   default: $EGRET_CONFIG, else /etc/egret/egret.toml
  --egret PATH    the egret binary; default: $EGRET, then PATH, then target/release and target/debug beside this script
  --format NAME   iptables (default) or nftables; `up` replaces the other one, `status` finds out by itself
USAGE
}

fail() {
    printf 'steer.sh: %s\n' "$*" >&2
    exit 2
}

command=
config=${EGRET_CONFIG:-/etc/egret/egret.toml}
egret=${EGRET:-}
format=
while [ $# -gt 0 ]; do
    case $1 in
        up | down | status) [ -z "$command" ] || fail "one of up, down, status, please"; command=$1 ;;
        --config | --egret | --format)
            [ $# -ge 2 ] || fail "$1 wants a value"
            case $1 in --config) config=$2 ;; --egret) egret=$2 ;; *) format=$2 ;; esac
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
    if command -v egret; then return; fi
    here=$(dirname "$0")
    for build in release debug; do
        if [ -x "$here/../target/$build/egret" ]; then printf '%s\n' "$here/../target/$build/egret"; return; fi
    done
    fail "no egret binary found: build one (cargo build --release) or give --egret PATH"
}
[ -n "$egret" ] || egret=$(find_egret)

# /usr/sbin holds ip, iptables and nft, and is not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# The whole script is there before any of it runs: if egret fails, nothing has changed.
case $command in
    up)
        script=$("$egret" steering print --config "$config" --format "${format:-iptables}")
        printf '%s\n' "$script" | sh -s
        ;;
    down)
        script=$("$egret" steering print --down)
        printf '%s\n' "$script" | sh -s
        ;;
    status)
        set -- steering status --config "$config"
        [ -z "$format" ] || set -- "$@" --format "$format"
        exec "$egret" "$@"
        ;;
esac
