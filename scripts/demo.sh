#!/usr/bin/env bash
# Shows Egret at work: a client, the gateway and a server in network namespaces of their own, on this machine.
# Everything it makes lives in one process tree with private mounts, so the kernel takes all of it back when that ends:
# after the last step, on Ctrl-C, and even if this script is killed.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=scripts/lib.sh
. "$here/lib.sh"

usage() {
    cat <<'USAGE'
usage: scripts/demo.sh [--keep]

  --keep   leave the gateway running after the tour, to play with: opens a shell; what was made ends with that shell

Needs Linux, and either user namespaces or root. Missing programs are installed with apt. Builds Egret unless the
variable EGRET is the path of a binary.
USAGE
}

keep=
while [[ $# -gt 0 ]]; do
    case $1 in
        --keep) keep=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "${0##*/}: there is no argument $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

install_missing curl:curl openssl:openssl nginx:nginx iptables:iptables nft:nftables ip:iproute2 \
    unshare:util-linux setpriv:util-linux nsenter:util-linux mount:mount

# --kill-child: when unshare ends, the first process inside ends, and with that one, all others there.
enter=(unshare --net --mount --pid --fork --kill-child)
if [[ $EUID -ne 0 ]]; then enter+=(--user --map-root-user); fi
if ! refused=$("${enter[@]}" true 2>&1); then
    [[ $EUID -ne 0 ]] || fail "network namespaces are refused here, even to root ($refused)"
    fail "user namespaces are refused here ($refused); so, as root:
  cargo build && sudo EGRET=target/debug/egret scripts/demo.sh"
fi

find_egret "Building Egret and its dependencies, without optimisation; the first time takes two minutes or so"

run_inside "${enter[@]}" "$here/demo/inside.sh" "$egret" "$keep"
