#!/usr/bin/env bash
# Runs every check and test of the project; installs with apt what is missing for them.
#
# usage: scripts/test.sh [STEP...]     steps: format lint scripts docs test alerts bench boot fuzz; all of them unless given
#
# fuzz runs beside boot, which mostly waits, if that comes right before it.
#
# The network-namespace tests need user namespaces or root, and the boot test root. Where they are not to be had they fail and say so.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

find_cargo
install_missing g++:g++ curl:curl openssl:openssl gnutls-serv:gnutls-bin nginx:nginx dnsmasq:dnsmasq-base knotd:knot ldns-signzone:ldnsutils iptables:iptables nft:nftables ip:iproute2 \
    ps:procps setpriv:util-linux unshare:util-linux haproxy:haproxy strace:strace shellcheck:shellcheck promtool:prometheus \
    apache2:apache2-bin node:nodejs wget:wget git:git
# The system's Python, whatever else is first in the PATH.
/usr/bin/python3 -c 'import aiohttp, cheroot, requests' 2>/dev/null ||
    install_missing aiohttp-module:python3-aiohttp cheroot-module:python3-cheroot requests-module:python3-requests

# Seconds of fuzzing for each target.
fuzz_seconds=${FUZZ_SECONDS:-20}

format() {
    cargo fmt --check
    cargo fmt --check --manifest-path fuzz/Cargo.toml
}
lint() { cargo clippy --locked --all-targets -- -D warnings; }
docs() { RUSTDOCFLAGS="-D warnings -A rustdoc::private-intra-doc-links" cargo doc --locked --no-deps --document-private-items; }
# Unit, property, doc, generated-documents and network-namespace tests.
test() { cargo test --locked; }
# Installs and boots Egret in a Debian of its own; see scripts/boot/scenarios.sh.
boot() {
    end download
    scripts/boot-test.sh
}
# Every benchmark once, so that none rots; nothing is measured.
bench() { cargo test --locked --bench flows --bench gateway --bench inspect --bench ledger --bench policy --bench telemetry; }
fuzz() { if [[ -n ${beside[fuzz]:-} ]]; then end fuzz; else scripts/fuzz.sh "$fuzz_seconds"; fi; }
scripts() {
    shellcheck -x scripts/*.sh scripts/boot/*.sh scripts/demo/*.sh .ci/run
    scripts/house.py >/dev/null
}
# Checks the alerting rules and the metrics with Prometheus's own tool.
alerts() {
    promtool check rules --lint-fatal deploy/prometheus/egret-rules.yml
    promtool test rules deploy/prometheus/egret-rules.test.yml
    cargo test --locked --test integration alerts -- --ignored
}
# Work that goes on beside other steps, by name.
declare -A beside=() logs=()
begin() { # NAME COMMAND...
    logs[$1]=$(mktemp)
    setsid "${@:2}" >"${logs[$1]}" 2>&1 &
    beside[$1]=$!
}
# Waits for it, prints what it did, and returns its exit code.
end() { # NAME
    local code=0
    wait "${beside[$1]}" || code=$?
    unset "beside[$1]"
    cat "${logs[$1]}"
    return "$code"
}
stop_all() {
    local group
    for group in "${beside[@]}"; do kill -- "-$group" 2>/dev/null || :; done
    rm -f "${logs[@]}"
}
trap stop_all EXIT

steps=("$@")
((${#steps[@]})) || steps=(format lint scripts docs test alerts bench boot fuzz)
# What is booted is downloaded while others compile.
case " ${steps[*]} " in *" boot "*) begin download scripts/boot-test.sh --download ;; esac
for i in "${!steps[@]}"; do
    step=${steps[i]}
    printf '\n== %s\n' "$step"
    start=$SECONDS
    if [[ $step == boot && ${steps[i + 1]:-} == fuzz ]]; then begin fuzz nice -n 19 scripts/fuzz.sh "$fuzz_seconds"; fi
    "$step"
    printf '== %s: ok, %d s\n' "$step" $((SECONDS - start))
done
printf '\nAll checks passed in %d s: %s\n' "$SECONDS" "${steps[*]}"
