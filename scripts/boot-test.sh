#!/usr/bin/env bash
# Installs Egret in a Debian that boots with systemd between a client and a server, and subjects it to typing errors,
# reboots, flushed rules, kills, upgrades and removal. Each scenario checks that service goes on, and that no packet of the
# client reaches the server uninspected.
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
       scripts/boot-test.sh --download

Runs the named scenarios after the first one, which installs and boots; all of them unless given (scripts/boot/scenarios.sh).
With --download it only downloads the Debian that is booted, if it is not there yet.
Needs root, Linux, and some 600 MB below target/. The variable EGRET may name the binary to install; otherwise cargo builds
it. EGRET_BOOT_SUITE=trixie boots Debian 13's userland instead of Debian 12's. EGRET_BOOT_KEEP=1 opens a shell at the end.
USAGE
}
case ${1:-} in -h | --help) usage; exit 0 ;; --download) ;; -*) echo "${0##*/}: there is no option $1" >&2; usage >&2; exit 2 ;; esac

[[ $EUID -eq 0 ]] || fail "booting a machine takes root: sudo $0"
suite=${EGRET_BOOT_SUITE:-bookworm}
case $suite in bookworm | trixie) ;; *) fail "EGRET_BOOT_SUITE is bookworm or trixie, not $suite" ;; esac

install_missing debootstrap:debootstrap systemd-nspawn:systemd-container curl:curl nginx:nginx openssl:openssl \
    nft:nftables ip:iproute2 setpriv:util-linux unshare:util-linux nsenter:util-linux mount:mount

# --kill-child: when unshare ends, the first process inside ends, and with that one, all others there.
enter=(unshare --net --mount --pid --fork --kill-child)
if ! refused=$("${enter[@]}" true 2>&1); then fail "namespaces are refused here, even to root ($refused)"; fi

# The Debian that is booted: made once, and never written to afterwards.
wanted=systemd,systemd-sysv,dbus,iproute2,iptables,nftables,logrotate,curl,jq,man-db,procps
cache=$here/../target/boot
base=$cache/$suite
if [[ $(cat "$base.complete" 2>/dev/null) != "$wanted" ]]; then
    say "Downloading Debian ($suite) into target/boot; takes a minute or two"
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase --include="$wanted" "$suite" "$base" >"$cache/$suite.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 3 "$cache/$suite.log")"
    rm -rf "$base"/var/cache/apt/archives/*.deb "$base"/var/lib/apt/lists/*
    echo "$wanted" >"$base.complete"
fi
base=$(realpath "$base")
[[ ${1:-} != --download ]] || exit 0

find_egret "Building Egret" --quiet
run_inside "${enter[@]}" "$here/boot/inside.sh" "$base" "$egret" "$@"
