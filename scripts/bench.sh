#!/usr/bin/env bash
# Measures Egret beside haproxy, kernel NAT and plain routing, end to end, in network namespaces on this machine, and
# writes docs/performance.md with its plots. That page says how it is measured and how to read it.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

usage() {
    cat <<'USAGE'
usage: scripts/bench.sh [--quick] [--only PART,...] [--rounds N]

  --quick        a look, in about a minute; docs/performance.md stays as it is
  --only PARTS   some of side, crowded, idle, waves, calls, growth; docs/performance.md stays as it is
  --rounds N     instead of 9 (2 with --quick)

Takes less than ten minutes on two processors, after a release build. Nothing else should run meanwhile. Needs Linux, and
either user namespaces or root; programs that are missing are installed with apt. Measures the binary that the variable EGRET
names, if it is set. Every measurement is also a line of JSON in target/bench-gateway.jsonl.
USAGE
}

arguments=("$@")
whole=yes
while [[ $# -gt 0 ]]; do
    case $1 in
        --quick) whole= ;;
        --only | --rounds)
            [[ $# -ge 2 ]] || fail "$1 needs a value"
            if [[ $1 = --only ]]; then whole=; fi
            shift
            ;;
        -h | --help) usage; exit 0 ;;
        *) echo "${0##*/}: there is no argument $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

find_cargo
install_missing haproxy:haproxy strace:strace ip:iproute2 nft:nftables unshare:util-linux uname:coreutils
# Every connection is two descriptors of a gateway; 9,000 are held.
hard=$(ulimit -Hn)
if [[ $hard != unlimited && $hard -lt 20000 ]]; then
    ulimit -n 20000 2>/dev/null ||
        fail "it needs 20000 file descriptors and the hard limit is $hard: as root, \`ulimit -n 20000\`, then run it again in that shell"
fi

if [[ -n ${EGRET:-} ]]; then
    EGRET=$(realpath "$EGRET")
    export EGRET
fi
mkdir -p target
if [[ $whole ]]; then arguments+=(--page .); fi
say "Building (profile release: link-time optimisation takes a while)"
cargo bench --quiet --locked --bench gateway --no-run
cargo bench --quiet --locked --bench gateway -- --json target/bench-gateway.jsonl "${arguments[@]}"
