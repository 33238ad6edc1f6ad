# shellcheck shell=bash
# Functions of the other scripts. Sourced, not run.

say() { printf '%s\n' "$*"; }
fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# ip, iptables, nft and nginx are here, and not in every user's PATH.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# Installs with apt what is missing. Each argument is PROGRAM:PACKAGE.
install_missing() {
    local pair packages=()
    for pair in "$@"; do
        if ! command -v "${pair%%:*}" >/dev/null; then packages+=("${pair#*:}"); fi
    done
    [[ ${#packages[@]} -gt 0 ]] || return 0
    mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
    install_packages "${packages[@]}"
}

# Installs Debian packages with apt, as root or with sudo, and says which.
install_packages() {
    local packages=("$@") as_root=()
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

# The version of the cargo in the PATH, for example 1.95.0; nothing if there is none.
cargo_version() { { cargo --version 2>/dev/null || :; } | sed -n 's/^cargo \([0-9.]*\).*/\1/p'; }
# Succeeds if that cargo can build this project.
cargo_is_new_enough() {
    local wanted
    wanted=$(sed -n 's/^rust-version = "\([0-9.]*\)".*/\1/p' "$(dirname "${BASH_SOURCE[0]}")/../Cargo.toml")
    [[ -n $(cargo_version) ]] && printf '%s\n' "$wanted" "$(cargo_version)" | sort --version-sort --check=silent
}

# Puts a cargo that is new enough, and the linker it needs, into the PATH. Where there is none, Debian's security archive
# has one: the toolchain that Debian builds its browsers with.
find_cargo() {
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if ! cargo_is_new_enough; then
        local present
        present=$(cargo_version)
        say "${present:+cargo $present is too old to build Egret. }Installing Debian's current Rust toolchain: cargo-web, rustc-web"
        install_packages cargo-web rustc-web
        PATH=/usr/bin:$PATH
        cargo_is_new_enough ||
            fail "cargo $(cargo_version) is the newest that apt has here, and too old: install a current Rust (https://rustup.rs)"
    fi
    install_missing cc:build-essential
}

# Sets `egret` to the binary that EGRET names, or to one that cargo builds: not optimised, as the tests use it, so that it
# is built once and soon.
find_egret() { # MESSAGE [CARGO OPTION...]
    egret=${EGRET:-}
    if [[ -z $egret ]]; then
        local message=$1 top target
        shift
        top=$(dirname "${BASH_SOURCE[0]}")/..
        find_cargo
        say "$message"
        (cd "$top" && cargo build --locked --bin egret "$@")
        target=$(cd "$top" && cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
        egret=$target/debug/egret
    fi
    [[ -x $egret ]] || fail "there is no program $egret"
    egret=$(realpath "$egret")
}

# Runs `unshare ... COMMAND` and returns its exit code. Everything inside ends when this script is stopped or killed.
run_inside() { # COMMAND...
    # --pdeathsig is for a script that is killed. The command runs in the background because bash runs traps only between
    # foreground commands.
    setpriv --pdeathsig KILL "$@" <&0 &
    inside=$!
    trap 'stop_inside 130' INT
    trap 'stop_inside 143' TERM
    trap 'stop_inside 129' HUP
    wait "$inside"
}
stop_inside() { # EXIT-CODE
    trap - INT TERM HUP
    kill -KILL "$inside" 2>/dev/null || :
    wait "$inside" 2>/dev/null || :
    printf '\n%s\n' "Stopped; nothing is left running." >&2
    exit "$1"
}
