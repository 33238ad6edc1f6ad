#!/bin/sh
# Installs Egret on this Debian or Ubuntu machine, or removes it. Can be run again: it replaces what it installed and
# never a configuration that was edited. docs/install.md tells the whole story.
set -eu

usage() {
    cat <<'USAGE'
usage: install.sh [--binary PATH] [--prefix DIR] [--root DIR]
       install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]

  --binary PATH  install this binary; default: the one that cargo build --release made here
  --prefix DIR   default: /usr
  --root DIR     install into a directory instead of this machine: no user, no owners, no systemd; needs no root
  --uninstall    stop Egret, take steering down, remove what was installed; keep configuration and logs
  --purge        remove configuration, logs and the user egret too
USAGE
}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
say() { printf '%s\n' "$*"; }

here=$(cd "$(dirname "$0")/.." && pwd)
binary=${CARGO_TARGET_DIR:-$here/target}/release/egret
prefix=/usr
root=
uninstall=
purge=
while [ $# -gt 0 ]; do
    case $1 in
        --binary | --prefix | --root)
            [ $# -ge 2 ] || fail "$1 wants a value"
            case $1 in --binary) binary=$2 ;; --prefix) prefix=$2 ;; *) root=$2 ;; esac
            shift
            ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; exit 2 ;;
    esac
    shift
done
[ -z "$purge" ] || [ -n "$uninstall" ] || fail "--purge goes with --uninstall"
case $prefix in /*) ;; *) fail "--prefix is an absolute path" ;; esac
# The prefix is written into the units by sed, and is nobody's word but the administrator's.
case $prefix in *[!A-Za-z0-9/._-]*) fail "--prefix holds a character other than letters, digits, / . _ -" ;; esac
prefix=${prefix%/}
root=${root%/}
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then fail "run as root, or with --root DIR to try it out"; fi

bin=$prefix/bin/egret
lib=$prefix/lib/egret
config=/etc/egret/egret.toml
units=/etc/systemd/system
networkd=/etc/systemd/networkd.conf.d/50-egret.conf
logrotate=/etc/logrotate.d/egret

has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# Whole or not at all, and never written into a running program.
place() { # MODE FROM TO
    mkdir -p "$(dirname "$root$3")"
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv "$root$3.new" "$root$3"
}
place_unit() { # NAME: with the paths of this installation
    mkdir -p "$root$units"
    sed "s|/usr/bin/egret|$bin|g; s|/usr/lib/egret/|$lib/|g" "$here/deploy/$1" >"$root$units/$1.new"
    chmod 644 "$root$units/$1.new"
    mv "$root$units/$1.new" "$root$units/$1"
}

install_all() {
    [ -f "$binary" ] || fail "there is no $binary: build it with cargo build --release (not as root), or give --binary PATH"
    if [ -z "$root" ]; then
        command -v ip >/dev/null || fail "ip is missing: apt install iproute2"
        command -v iptables >/dev/null || command -v nft >/dev/null ||
            fail "a packet filter is missing: apt install iptables, or nftables (docs/install.md)"
    fi
    if [ -z "$root" ] && ! id egret >/dev/null 2>&1; then
        useradd --system --user-group --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin egret
    fi
    place 755 "$binary" "$bin"
    place 755 "$here/scripts/steer.sh" "$lib/steer.sh"
    place_unit egret.service
    place_unit egret-steering.service
    place 644 "$here/deploy/networkd.conf" "$networkd"
    place 644 "$here/deploy/logrotate" "$logrotate"
    if [ -e "$root$config" ]; then
        place 644 "$here/deploy/egret.toml" "$config.example"
        say "kept $root$config as it is; the current template is $root$config.example"
    else
        place 640 "$here/deploy/egret.toml" "$config"
    fi
    if [ -n "$root" ]; then
        say "installed into $root, as a trial: no user made, no owners set, systemd not told"
        return
    fi
    # Rules may name what tenants may reach: not for everybody's eyes.
    chown -R root:egret /etc/egret
    chmod 750 /etc/egret
    install -d -m 750 -o egret -g egret /var/log/egret
    if has_systemd; then
        systemctl daemon-reload
        systemctl try-reload-or-restart systemd-networkd.service || :
    fi
    cat <<NEXT

Egret is installed. Next:
  1. edit $config           (interfaces, pool, tenants)
  2. egret check --config $config
  3. systemctl enable --now egret-steering egret
  4. egret doctor --config $config
After an upgrade: systemctl reload egret-steering; systemctl restart egret
NEXT
}

uninstall_all() {
    if has_systemd; then
        systemctl disable --now egret.service egret-steering.service 2>/dev/null || :
    fi
    if [ -z "$root" ] && [ -x "$lib/steer.sh" ] && [ -x "$bin" ]; then
        "$lib/steer.sh" down --egret "$bin" || fail "steering could not be taken down; nothing was removed"
    fi
    for file in "$bin" "$lib/steer.sh" "$units/egret.service" "$units/egret-steering.service" "$networkd" "$logrotate" \
        "$config.example"; do
        rm -f "$root$file"
    done
    rmdir "$root$lib" 2>/dev/null || :
    if has_systemd; then systemctl daemon-reload; fi
    if [ -z "$purge" ]; then
        say "removed Egret; kept $root/etc/egret and $root/var/log/egret (--purge removes them)"
        return
    fi
    rm -rf "$root/etc/egret" "$root/var/log/egret"
    if [ -z "$root" ] && id egret >/dev/null 2>&1; then userdel egret; fi
    say "removed Egret, its configuration and its logs"
}

if [ -n "$uninstall" ]; then uninstall_all; else install_all; fi
