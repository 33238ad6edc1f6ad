#!/usr/bin/env bash
# Installs Egret in a Debian with systemd as its first process, boots it between a client and a server, and does to it what
# operators and fate do: typing errors, reboots, flushed rules, kills, upgrades, removal. Each scenario asks whether service
# goes on, and whether anything of the client reaches the server uninspected.
#
# Everything it makes lives in one process tree with private mounts and ends with it; only the downloaded Debian stays, in
# target/boot.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/boot-test.sh [SCENARIO...]

Runs the named scenarios after the first one, which installs and boots; all of them unless given (scripts/boot/scenarios.sh).
Needs root, Linux, and some 600 MB below target/. The variable EGRET may name the binary to install; otherwise cargo builds
it. EGRET_BOOT_SUITE=trixie boots Debian 13's userland instead of Debian 12's. EGRET_BOOT_KEEP=1 opens a shell at the end.
USAGE
}
case ${1:-} in -h | --help) usage; exit 0 ;; -*) usage >&2; exit 2 ;; esac

[[ $EUID -eq 0 ]] || fail "booting a machine takes root: sudo $0"
suite=${EGRET_BOOT_SUITE:-bookworm}
case $suite in bookworm | trixie) ;; *) fail "EGRET_BOOT_SUITE is bookworm or trixie, not $suite" ;; esac

install_missing debootstrap:debootstrap systemd-nspawn:systemd-container curl:curl nginx:nginx openssl:openssl \
    nft:nftables ip:iproute2 setpriv:util-linux unshare:util-linux nsenter:util-linux mount:mount

# --kill-child: when unshare ends, the first process inside ends, and with that one, all others there.
enter=(unshare --net --mount --pid --fork --kill-child)
if ! refused=$("${enter[@]}" true 2>&1); then fail "namespaces are refused here, even to root ($refused)"; fi

egret=${EGRET:-}
if [[ -z $egret ]]; then
    find_cargo
    say "Building Egret"
    (cd "$here/.." && cargo build --quiet --locked --bin egret)
    target=$(cd "$here/.." && cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
    egret=$target/debug/egret
fi
[[ -x $egret ]] || fail "there is no program $egret"
egret=$(realpath "$egret")

# The Debian that is booted: made once, and never written to afterwards.
wanted=systemd,systemd-sysv,dbus,iproute2,iptables,nftables,logrotate,curl,man-db
cache=$here/../target/boot
base=$cache/$suite
if [[ ! -e $base.complete ]]; then
    say "Downloading Debian ($suite) into target/boot; takes a minute or two"
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase --include="$wanted" "$suite" "$base" >"$cache/$suite.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 3 "$cache/$suite.log")"
    rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
    touch "$base.complete"
fi
base=$(realpath "$base")

# In the background, because bash runs its traps only between foreground commands. --pdeathsig: also if this script
# is killed without a chance to run them.
setpriv --pdeathsig KILL "${enter[@]}" "$here/boot/inside.sh" "$base" "$egret" "$@" <&0 &
inside=$!
stop() {
    trap - INT TERM HUP
    kill -KILL "$inside" 2>/dev/null || :
    wait "$inside" 2>/dev/null || :
    exit "$1"
}
trap 'stop 130' INT
trap 'stop 143' TERM
trap 'stop 129' HUP
wait "$inside"
