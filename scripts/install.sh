#!/bin/sh
# Installs Egret on this Debian or Ubuntu machine, or removes it. Can be run again: it replaces what it installed and
# never an existing configuration. See docs/install.md.
set -eu
# Root runs what is installed: nobody else may write there, whatever the caller's umask.
umask 022

usage() {
    cat <<'USAGE'
usage: install.sh [--binary PATH] [--prefix DIR] [--root DIR] [--force]
       install.sh --uninstall [--purge] [--prefix DIR] [--root DIR]

  --binary PATH  install this binary; default: the one that cargo build --release made here
  --prefix DIR   default: /usr; to uninstall, that of the installation
  --root DIR     install into a directory instead of this machine: no user, no owners, no systemd; needs no root
  --force        install even if the binary refuses the configuration in /etc/egret
  --uninstall    stop Egret, take steering down, remove what was installed; keep configuration and logs
  --purge        remove configuration, logs, changes of the units and the user egret too
USAGE
}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}
say() { printf '%s\n' "$*"; }

here=$(cd "$(dirname "$0")/.." && pwd)
binary=${CARGO_TARGET_DIR:-$here/target}/release/egret
prefix=
root=
force=
uninstall=
purge=
while [ $# -gt 0 ]; do
    case $1 in
        --binary | --prefix | --root)
            [ $# -ge 2 ] || fail "$1 needs a value"
            case $1 in --binary) binary=$2 ;; --prefix) prefix=$2 ;; *) root=$2 ;; esac
            shift
            ;;
        --force) force=yes ;;
        --uninstall) uninstall=yes ;;
        --purge) purge=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "${0##*/}: there is no argument $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
[ -z "$purge" ] || [ -n "$uninstall" ] || fail "--purge needs --uninstall"
case $prefix in '' | /*) ;; *) fail "--prefix must be an absolute path" ;; esac
# The prefix is written into the units by sed.
case $prefix in *[!A-Za-z0-9/._-]*) fail "--prefix may only contain letters, digits, / . _ -" ;; esac
root=${root%/}
units=/etc/systemd/system
# What is installed is found by its unit, whatever prefix it was installed with.
if [ -n "$uninstall" ] && program=$(sed -n 's|^ExecStart=\(/.*/egret\) run .*|\1|p' "$root$units/egret.service" 2>/dev/null) &&
    [ -n "$program" ]; then
    prefix=${prefix:-${program%bin/egret}}
    [ "${prefix%/}/bin/egret" = "$program" ] || fail "Egret is installed as $program, not below $prefix: give that --prefix, or none"
fi
prefix=${prefix:-/usr}
prefix=${prefix%/}
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then fail "run as root, or with --root DIR to try it out"; fi

bin=$prefix/bin/egret
# Where gdb, perf and backtraces look for the debug information of $bin.
debug=/usr/lib/debug$bin.debug
lib=$prefix/lib/egret
config=/etc/egret/egret.toml
unit_names=$(cd "$here/deploy" && ls -- *.service *.path 2>/dev/null) || :
networkd=/etc/systemd/networkd.conf.d/50-egret.conf
logrotate=/etc/logrotate.d/egret
man=$prefix/share/man/man1
bash_completion=$prefix/share/bash-completion/completions/egret
zsh_completion=$prefix/share/zsh/vendor-completions/_egret
fish_completion=$prefix/share/fish/vendor_completions.d/egret.fish
doc=$prefix/share/doc/egret

has_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# Prepares the place where a file is written before it gets its name. An older version may have left the folder open to
# other users: what they have put there would keep its owner.
clear_place() { # FILE
    mkdir -p "$root$(dirname "$1")"
    chmod o-w "$root$(dirname "$1")"
    rm -rf "$root$1.new"
}
# Replaces the file atomically, without writing into a running program.
place() { # MODE FROM TO
    clear_place "$3"
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv "$root$3.new" "$root$3"
}
# Places the program, and its debug information (four fifths of it) in a file apart if there is a tool for that.
place_program() {
    if ! command -v objcopy >/dev/null; then
        place 755 "$binary" "$bin"
        return
    fi
    clear_place "$debug"
    clear_place "$bin"
    objcopy --only-keep-debug "$binary" "$root$debug.new"
    chmod 644 "$root$debug.new"
    mv "$root$debug.new" "$root$debug"
    objcopy --strip-debug --add-gnu-debuglink="$root$debug" "$binary" "$root$bin.new"
    chmod 755 "$root$bin.new"
    mv "$root$bin.new" "$root$bin"
}
place_unit() { # NAME. Puts the paths of this installation into it
    clear_place "$units/$1"
    sed "s|/usr/bin/egret|$bin|g; s|/usr/lib/egret/|$lib/|g" "$here/deploy/$1" >"$root$units/$1.new"
    chmod 644 "$root$units/$1.new"
    mv "$root$units/$1.new" "$root$units/$1"
}

# Checks, before anything is replaced, that the binary runs here and accepts the existing configuration.
check_binary() {
    [ -f "$binary" ] || fail "there is no $binary: build it with cargo build --release (not as root), or give --binary PATH"
    version=$("$binary" --version 2>&1) || fail "$binary does not run on this machine: ${version:-it failed without a message}"
    case $version in "egret "*) ;; *) fail "$binary is not egret: it calls itself ${version:-nothing}" ;; esac
    if [ ! -e "$root$config" ] || [ -n "$force" ]; then return 0; fi
    found=$("$binary" check --config "$root$config" 2>&1) && return 0
    printf '%s\n' "$found" >&2
    fail "$version refuses the configuration in $root$config, as above; nothing was replaced. Fix it first, or install with --force"
}

make_user() {
    # Apart from each other: a purge leaves a group that somebody else is in.
    getent group egret >/dev/null || groupadd --system egret
    if ! id egret >/dev/null 2>&1; then
        useradd --system --gid egret --home-dir /nonexistent --no-create-home --shell /usr/sbin/nologin egret
    fi
}

# Writes the output of the installed binary. One that is older than this installer may know nothing of it.
generate() { # FILE EGRET-ARGUMENT...
    file=$1
    shift
    clear_place "$file"
    if "$root$bin" "$@" >"$root$file.new" 2>/dev/null; then
        mv "$root$file.new" "$root$file"
    else
        rm -f "$root$file.new" "$root$file"
        not_generated "$@"
    fi
}
not_generated() { say "this binary has no \`egret $*\`, and what that writes is not installed"; }

# The pages that messages and pages name, at the same paths below $doc as in the repository.
place_documents() {
    documents=$(cd "$here" && find README.md ARCHITECTURE.md CONTRIBUTING.md CHANGELOG.md LICENSE-* docs examples deploy -type f)
    rm -rf "$root$doc.new"
    printf '%s\n' "$documents" | while IFS= read -r file; do
        place 644 "$here/$file" "$doc.new/$file"
    done
    rm -rf "$root$doc"
    mv "$root$doc.new" "$root$doc"
}

# systemd-networkd reads networkd.conf only when it starts. A restart keeps links and addresses.
protect_routes() {
    clear_place "$networkd"
    if ! [ -e "$root$networkd" ] || ! cmp -s "$here/deploy/networkd.conf" "$root$networkd"; then
        place 644 "$here/deploy/networkd.conf" "$networkd"
    fi
    if ! has_systemd || ! systemctl --quiet is-active systemd-networkd.service || networkd_has_read_it; then return 0; fi
    if systemctl restart systemd-networkd.service; then
        say "systemd-networkd was restarted: from now on it leaves other programs' routes and rules alone ($networkd)"
    else
        say "systemd-networkd did not restart: until it does, it removes Egret's routes and rules when it reconfigures an interface"
    fi
}

# By time, since an earlier run may have ended between the file and the restart.
networkd_has_read_it() {
    started=$(systemctl show --timestamp=us+utc --property=ExecMainStartTimestamp --value systemd-networkd.service) &&
        started=$(LC_ALL=C date -d "$started" +%s%6N) &&
        [ "$started" -gt "$(stat -c %.6Y "$networkd" | tr -d .)" ]
}

# A link that leads nowhere is a disk that is not mounted: the template would take its place.
check_config() {
    for place in /etc/egret "$config"; do
        if [ -L "$root$place" ] && [ ! -e "$root$place" ]; then
            fail "$root$place is a link to $(readlink "$root$place"), which is not there (is a disk not mounted?); nothing was replaced"
        fi
    done
}

install_all() {
    check_config
    check_binary
    if [ -z "$root" ]; then
        command -v ip >/dev/null || fail "ip is missing: apt install iproute2"
        command -v iptables >/dev/null || command -v nft >/dev/null ||
            fail "a packet filter is missing: apt install iptables, or nftables (docs/install.md)"
        make_user
    fi
    place_program
    mkdir -p "$root$lib"
    chmod 755 "$root$lib"
    if [ -z "$root" ]; then chown root:root "$lib"; fi
    place 755 "$here/scripts/steer.sh" "$lib/steer.sh"
    # For `steer.sh down` without the binary.
    generate "$lib/down.sh" steering print --down
    for unit in $unit_names; do place_unit "$unit"; done
    place 644 "$here/deploy/logrotate" "$logrotate"
    clear_place "$man/egret.1"
    rm -f "$root$man"/egret.1 "$root$man"/egret-*.1
    "$root$bin" man --dir "$root$man" 2>/dev/null || not_generated man
    place_documents
    generate "$bash_completion" completions bash
    generate "$zsh_completion" completions zsh
    generate "$fish_completion" completions fish
    if [ -e "$root$config" ]; then
        place 644 "$here/deploy/egret.toml" "$config.example"
        say "kept $root$config as it is; the current template is $root$config.example"
    else
        place 640 "$here/deploy/egret.toml" "$config"
    fi
    if [ -n "$root" ]; then
        protect_routes
        say "installed into $root: no user created, no owners set, systemd not reloaded"
        return
    fi
    # The rules are confidential. New files in these directories inherit the group, so that the service can read them.
    chown -R root:egret /etc/egret
    find /etc/egret -type d -exec chmod 2750 {} +
    find /etc/egret -type f -exec chmod g-w,o= {} +
    install -d -m 750 -o egret -g egret /var/log/egret
    if has_systemd; then
        systemctl daemon-reload
        # Which comes with it, and is new to an older version's.
        if systemctl --quiet is-enabled egret-steering.service 2>/dev/null; then systemctl --quiet enable egret-guard.service; fi
    fi
    protect_routes
    cat <<NEXT

Egret is installed. Next:
  1. edit $config           (interfaces, pool, tenants)
  2. egret check
  3. systemctl enable --now egret-steering egret
  4. egret doctor
After an upgrade: systemctl restart egret-steering egret
NEXT
}

is_steered() { [ -e /run/egret-steering ] || { ip rule show && ip -6 rule show; } 2>/dev/null | grep -q 'proto 23[01]'; }
# Ends the installer if rules stay. The units stay enabled then: without them, the next boot would forward what clients send.
take_down() {
    # shellcheck disable=SC2086 # each a word
    if has_systemd; then systemctl stop $unit_names 2>/dev/null || :; fi
    steer=$lib/steer.sh
    [ -x "$steer" ] || steer=$here/scripts/steer.sh
    egret=$bin
    [ -x "$egret" ] || egret=$binary
    if "$steer" down --egret "$egret" || ! is_steered; then return 0; fi
    fail "steering could not be taken down, as above; nothing was removed. Egret is stopped, its rules keep clients from passing, and it starts again at the next boot. Mend that (without the binary: build it, or give --binary PATH) and run this again, or go on with: systemctl start egret-steering egret"
}
uninstall_all() {
    if [ -z "$root" ]; then take_down; fi
    if has_systemd; then
        # shellcheck disable=SC2086
        systemctl disable --now $unit_names 2>/dev/null || :
        # shellcheck disable=SC2086
        systemctl reset-failed $unit_names 2>/dev/null || :
    fi
    for unit in $unit_names; do rm -f "$root$units/$unit"; done
    for file in "$bin" "$debug" "$lib/steer.sh" "$lib/down.sh" "$networkd" "$logrotate" "$bash_completion" "$zsh_completion" "$fish_completion" \
        "$config.example"; do
        rm -f "$root$file"
    done
    rm -f "$root$man"/egret.1 "$root$man"/egret-*.1
    rm -rf "$root/var/lib/egret-steering" "$root$doc"
    rm -f "$root/run/egret-steering.lock" "$root/run/egret-steering.down" "$root/run/egret-install.lock"
    rmdir "$root$lib" "$root$(dirname "$debug")" 2>/dev/null || :
    if has_systemd; then systemctl daemon-reload; fi
    if [ -z "$purge" ]; then
        say "removed Egret; kept $root/etc/egret, $root/var/lib/egret and $root/var/log/egret (--purge removes them)"
        return
    fi
    rm -rf "$root/etc/egret" "$root/var/lib/egret" "$root/var/log/egret" "$root/etc/default/egret-steering"
    # Those of `systemctl edit`, which the next installation would not expect.
    for unit in $unit_names; do rm -rf "$root$units/$unit.d"; done
    if has_systemd; then systemctl daemon-reload; fi
    if [ -z "$root" ]; then remove_user; fi
    say "removed Egret, its configuration and its logs"
}

# The group outlives the user where operators were added to it.
remove_user() {
    if id egret >/dev/null 2>&1; then userdel egret || say "the user egret could not be removed"; fi
    if getent group egret >/dev/null && ! groupdel egret; then
        say "the group egret stays: it is somebody's primary group"
    fi
}

# One at a time: two would write the same files under their provisional names. The lock is root's alone.
if [ -n "$root" ]; then
    lock=$root
    mkdir -p "$lock"
else
    lock=/run/egret-install.lock
    (umask 077 && : >>$lock)
fi
exec 8<"$lock"
flock -n 8 || fail "another install.sh is at work here"
if [ -n "$uninstall" ]; then uninstall_all; else install_all; fi
