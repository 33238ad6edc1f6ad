# shellcheck shell=bash
# What scripts/bench.sh, scripts/demo.sh and scripts/test.sh share. Sourced, not run.

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# ip, iptables, nft and nginx are here, and not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# Installs with apt what is missing, and says what. Each argument is PROGRAM:PACKAGE.
install_missing() {
    local pair packages=()
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null; then packages+=("${pair#*:}"); fi
    done
    [[ ${#packages[@]} -gt 0 ]] || return 0
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)

    local as_root=()
    if ! command -v apt-get >/dev/null; then
        fail "please install the equivalents of these Debian packages first: ${packages[*]}"
    fi
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || fail "missing, and no sudo to install them: run as root: apt-get install ${packages[*]}"
        as_root=(sudo)
    fi
    say "Installing with apt: ${packages[*]}"
    # These packages would start a service of their name on this machine. Only their programs are wanted.
    local package
    for package in "${packages[@]}"; do
        case $package in haproxy | knot | nginx | prometheus) ;; *) continue ;; esac
        [[ -d /run/systemd/system ]] || continue
        say "$package.service is masked, so that it does not run on this machine (undo: systemctl unmask $package)"
        "${as_root[@]}" systemctl mask --quiet "$package.service"
    done
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    "${apt[@]}" update
    "${apt[@]}" install --no-install-recommends "${packages[@]}" >/dev/null || fail "apt could not install ${packages[*]}"
}

# Puts cargo into the PATH; it needs a linker.
find_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    command -v cargo >/dev/null || fail "no cargo: install Rust (https://rustup.rs), or give a built binary: EGRET=PATH $0"
    install_missing cc:build-essential
}
