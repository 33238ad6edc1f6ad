#!/bin/sh
# Puts Egret's packet rules, routes and kernel settings in place (up), removes them (down), or checks them (status). Run as
# root. docs/steering.md explains what they are.
set -eu

usage() {
    cat <<'USAGE'
usage: steer.sh up|guard|down|heal|status [--config FILE] [--egret PATH] [--format iptables|nftables] [--keep FOLDER]

  up       put everything in place; run it again after a change of the configuration
  guard    block forwarding until `up` has succeeded; no effect if it has since the boot. Needs no configuration
  down     remove everything and restore the settings from before; needs no configuration, and where install.sh has been no
           binary
  heal     restart egret-steering.service, unless steering was taken down by `down`; egret-steering-heal.service runs it
  status   exit 0 if everything is in place, else 1

  --config FILE   default: $EGRET_CONFIG, else /etc/egret/egret.toml
  --egret PATH    the egret binary; default: $EGRET, then PATH, then target/release and target/debug beside this script
  --format NAME   iptables (default) or nftables; `up` replaces the other one, `status` finds out by itself
  --keep FOLDER   `up` keeps a copy of the rules there once they are in place, and uses it, with a message and exit code 1,
                  if the configuration or an argument is broken later. Only root may write there: the copy is run as root

Exit code 2: nothing was put in place. The environment variable GUARD_INTERFACES limits `guard` to these interfaces,
separated by spaces.
USAGE
}

# Under systemd, lines for the journal carry their priority (sd-daemon(3)): 3 is an error, 4 a warning.
priority() {
    if [ -n "${JOURNAL_STREAM:-}" ] && [ "$(stat -L -c %d:%i /proc/self/fd/2)" = "$JOURNAL_STREAM" ]; then
        printf '<%s>' "$1"
    fi
}
# Standard input, line by line, to standard error.
tell() { # PRIORITY
    mark=$(priority "$1")
    while IFS= read -r line; do printf '%s%s\n' "$mark" "$line" >&2; done
}
fail() {
    printf 'steer.sh: %s\n' "$*" | tell 3
    exit 2
}

command=
config=${EGRET_CONFIG:-/etc/egret/egret.toml}
egret=${EGRET:-}
format=
kept=
wrong= # the first mistake in the arguments
mistake() { wrong=${wrong:-$*}; }
while [ $# -gt 0 ]; do
    case $1 in
        up | guard | down | heal | status) if [ -z "$command" ]; then command=$1; else mistake "$command and $1 exclude each other"; fi ;;
        --config | --egret | --format | --keep)
            if [ $# -lt 2 ]; then mistake "$1 needs a value"; break; fi
            case $1 in --config) config=$2 ;; --egret) egret=$2 ;; --keep) kept=$2/steering.sh ;; *) format=$2 ;; esac
            shift
            ;;
        -h | --help) if [ -z "$kept" ]; then usage; exit 0; else mistake "$1 beside --keep"; fi ;;
        *) mistake "there is no argument $1; \`steer.sh --help\` lists them" ;;
    esac
    shift
done
if [ -z "$command" ]; then
    [ -z "$wrong" ] || fail "$wrong"
    usage >&2
    exit 2
fi
case $format in '' | iptables | nftables) ;; *) mistake "--format is iptables or nftables, not $format" ;; esac
# A typo must not take a boot down: with --keep, `up` uses the last good rules.
if [ -n "$wrong" ] && { [ "$command" != up ] || [ -z "$kept" ]; }; then fail "$wrong"; fi

# Sets `why` on failure.
find_egret() {
    if [ -n "$egret" ]; then return; fi
    if egret=$(command -v egret); then return; fi
    here=$(dirname "$0")
    for build in release debug; do
        egret=$here/../target/$build/egret
        if [ -x "$egret" ]; then return; fi
    done
    why="no egret binary found: build one (cargo build --release) or give --egret PATH"
    return 1
}

# /usr/sbin holds ip, iptables and nft, and is not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin
export PATH

# Record of what `up` changed since the boot; only root may write there.
state=${EGRET_STEERING_STATE:-/run/egret-steering/state}
# Exists if `up` has succeeded since the boot, and holds the `ip rule` entries that were there then.
marker=${state%/*}/up
# Exists while the last good rules are in force, and holds the reason.
fallback=${state%/*}/fallback
# Exists from before the first step of `down` until the next `up` that is not the gateway's repair. Beside the folder, which
# `down` removes.
taken_down=${state%/*}.down
# Exists from a repair's first look at that until its `up` starts.
repair=${state%/*}.repair

# --- the guard: blocks forwarding until there are rules
# By policy routing and not packet rules: `nft flush ruleset` does not remove it, it needs no packet filter, and it works for
# interfaces that do not exist yet. Right after the local table, so that the machine itself stays reachable.

guard_protocol=231 # tells them from the rules of `up`

families() { if [ -e /proc/net/if_inet6 ]; then echo -4 -6; else echo -4; fi; }
guard() {
    if [ -e "$marker" ] || adopt; then return 0; fi
    refuse_all
}
refuse_all() {
    if refuse_on_some; then
        # Whatever was refused on all while some of them were not there yet.
        for family in $(families); do
            ip "$family" rule del pref 1 not iif lo blackhole protocol $guard_protocol 2>/dev/null || :
        done
        return 0
    fi
    open=
    for family in $(families); do refuse "$family" not iif lo || open=${said:-ip failed}; done
    [ -z "$open" ] || fail "cannot block forwarding: $open"
}
# False if GUARD_INTERFACES names none, or something that is no interface: `ip` takes patterns, commas and mistyped names, and
# never matches them. An interface that is late is known when `guard` runs again.
refuse_on_some() {
    named=${GUARD_INTERFACES:-}
    case $named in *[![:space:]A-Za-z0-9._-]*) said='write names separated by spaces, and no patterns'; not_named 3; return 1 ;; esac
    if [ -z "$(printf %s "$named" | tr -d '[:space:]')" ]; then return 1; fi
    for interface in $named; do
        if ! is_interface "$interface"; then said="there is no interface $interface"; not_named 4; return 1; fi
        for family in $(families); do
            refuse "$family" iif "$interface" || { not_named 3; return 1; }
        done
    done
}
not_named() { # PRIORITY
    printf 'steer.sh: GUARD_INTERFACES is "%s": %s. Forwarding is blocked on all interfaces\n' "$named" "$said" | tell "$1"
}
# Where the record of an `up` is gone, and the rules that it left in policy routing are there, in every family: notes them again.
# They do not outlive a boot.
adopt() {
    if is_guarded || ! are_listed 101 102 104 107; then return 1; fi
    umask 077
    mkdir -p "${state%/*}"
    listed_rules >"$marker" || : >"$marker"
    printf 'steer.sh: %s is gone, and Egret'"'"'s rules against forwarding are in place: forwarding is not blocked\n' "$marker" | tell 4
}
# Adding a rule that exists fails, which is fine: it is never absent in between. Sets `said` on failure.
refuse() { # -4|-6 WHAT...
    family=$1
    shift
    if ! said=$(ip "$family" rule add pref 1 "$@" blackhole protocol $guard_protocol 2>&1); then
        case $said in *"File exists"*) ;; *) return 1 ;; esac
    fi
}
is_guarded() { ip rule show | grep "proto $guard_protocol" >/dev/null; }
lift_guard() { for family in $(families); do ip "$family" rule flush protocol $guard_protocol; done; }

# --- up

end='# egret steering: end' # the last line of every script, so that it is known to be whole

is_whole() { [ "$(tail -n 1)" = "$end" ]; }

# Renders the whole script before running it: if egret fails, nothing has changed. Sets `why` on failure.
attempt() { # WHAT COMMAND...
    if ! said=$("$@" 2>&1 >"$scratch"); then
        why=${said:-"$1 failed"}
        return 1
    fi
    if [ -n "$said" ]; then printf '%s\n' "$said" | tell 4; fi
    if mistyped; then return 1; fi
    run_script "$scratch" "the rules printed by $1" || return 1
}
# True if the new script names an interface that is nowhere in place of one that is intercepted, which `egret reload` refuses
# too. At a boot neither may be there yet.
mistyped() {
    if [ -z "$kept" ] || [ ! -f "$kept" ]; then return 1; fi
    missing=$(new_names | head -n 1)
    lost=$(dropped_names | while IFS= read -r name; do
        if is_interface "$name"; then printf '%s\n' "$name"; fi
    done | head -n 1)
    if [ -z "$missing" ] || [ -z "$lost" ]; then return 1; fi
    why="$config: no interface is called $missing, and traffic is intercepted on $lost, which it no longer names: correct [steering] interfaces"
}
# Interfaces of the new script that are nowhere, and that the kept one does not name. Those of a pattern may come later, where
# another name or pattern of the script is there.
new_names() {
    some=$(interfaces_of "$scratch" | while IFS= read -r name; do
        if is_interface "$name"; then printf '%s\n' "$name"; fi
    done | head -n 1)
    interfaces_of "$scratch" | while IFS= read -r name; do
        case $name in *'*') [ -z "$some" ] || continue ;; esac
        if ! is_interface "$name" && ! names "$kept" "$name"; then printf '%s\n' "$name"; fi
    done
}
# Interfaces and patterns of the kept script that the new one does not name.
dropped_names() {
    interfaces_of "$kept" | while IFS= read -r name; do
        if ! names "$scratch" "$name"; then printf '%s\n' "$name"; fi
    done
}
interfaces_of() { sed -n 's/^interfaces_exist //p' "$1" | tr -d "'" | tr ' ' '\n'; } # FILE
is_interface() { # NAME|PATTERN
    for link in /proc/sys/net/ipv4/conf/*; do
        # shellcheck disable=SC2254 # a pattern is meant
        case ${link##*/} in all | default) ;; $1) return 0 ;; esac
    done
    return 1
}
names() { interfaces_of "$1" | grep -qxF -- "$2"; } # FILE INTERFACE
# Success by exit code is not enough: an empty file has that too. Sets `why` on failure.
run_script() { # FILE NAME
    if ! is_whole <"$1"; then
        why="$2: incomplete, or of another version: the last line is not \`$end\`"
        return 1
    fi
    if ! said=$(sh "$1" 2>&1); then
        why=${said:-the script failed}
        return 1
    fi
    if [ -n "$said" ]; then printf '%s\n' "$said" | tell 4; fi
    if ! are_listed 101 '10[46]' 107; then
        why="$2: they ran without an error, and \`ip rule\` lacks Egret's entries all the same"
        return 1
    fi
}
# Replaces the kept rules atomically, and durably over a power failure. Early in a boot neither an interface nor the one in its
# place may be there, so that a mistyped name cannot be told: such rules do not become the last good ones.
keep() {
    if [ -z "$kept" ]; then return 0; fi
    if [ -f "$kept" ]; then
        missing=$(new_names | head -n 1)
        dropped=$(dropped_names | head -n 1)
        if [ -n "$missing" ] && [ -n "$dropped" ]; then
            printf 'steer.sh: these rules are not kept as the last good ones: no interface is called %s, which takes the place of %s. Once there is one: systemctl restart egret-steering\n' \
                "$missing" "$dropped" | tell 4
            return 0
        fi
    fi
    if ! { mkdir -p "${kept%/*}" && chmod 700 "${kept%/*}" && cp "$scratch" "$kept.new" && sync "$kept.new" &&
        mv "$kept.new" "$kept"; }; then
        printf 'steer.sh: the rules could not be kept in %s as a fallback for a broken configuration\n' "${kept%/*}" | tell 3
    fi
}
# Blocks forwarding again if a rule of an earlier `up` is missing, in either family, or may be: an empty marker tells none.
block() {
    if [ ! -e "$marker" ]; then return 0; fi
    lost=unknown
    if [ -s "$marker" ] && listed_rules >"$marker.now"; then lost=$(grep -vxFf "$marker.now" "$marker" || :); fi
    rm -f "$marker.now"
    if [ -z "$lost" ]; then return 0; fi
    rm -f "$marker"
    refuse_all
}
# The entries of `up`, a line each after its family. Fails if they cannot be listed.
listed_rules() {
    for family in $(families); do
        shown=$(ip -N "$family" rule show) || return 1
        printf '%s\n' "$shown" | sed -n "/proto 230/{s/ [[]detached[]]//;s/^/$family /p;}"
    done
}
# True if each of these entries of `up` is there, in every family.
are_listed() { # PRIORITY...
    listed=$(listed_rules) || return 1
    for family in $(families); do
        for at; do
            # shellcheck disable=SC2254 # a pattern is meant
            case "
$listed" in *"
$family "$at:*) ;; *) return 1 ;; esac
        done
    done
}
in_place() {
    listed_rules >"$marker" || : >"$marker"
    lift_guard
}
up() {
    # Not in /tmp, which is cleared while the machine boots.
    scratch=${state%/*}/new.$$
    trap 'rm -f "$scratch"' EXIT
    trap 'exit 143' INT TERM HUP
    why=${wrong:+"wrong argument: $wrong (the unit takes some from /etc/default/egret-steering)"}
    if [ -z "$wrong" ] && find_egret && attempt "$egret" steering print --config "$config" --format "${format:-iptables}"; then
        in_place
        rm -f "$fallback"
        keep
        return 0
    fi
    printf '%s\n' "$why" | tell 3
    refused=$why
    if [ -z "$kept" ] || [ ! -f "$kept" ]; then
        block
        is_guarded && guarded="; until it is, nothing is forwarded (\`steer.sh down\` lifts that)"
        fail "steering was not put in place${kept:+, and there are no kept rules to fall back to}${guarded:-}"
    fi
    if ! run_script "$kept" "$kept"; then
        printf '%s\n' "$why" | tell 3
        block
        fail "the last good rules in $kept cannot be put in place either"
    fi
    in_place
    printf '%s\n' "$refused" >"$fallback"
    printf 'steer.sh: the last good rules, of %s, are in force instead (%s). Fix what was refused, then: systemctl restart egret-steering\n' \
        "$(date -r "$kept" '+%Y-%m-%d %H:%M')" "$kept" | tell 3
    return 1
}

# One at a time: the second would meet rules half put in place. The lock lies beside the folder, which `down` removes, and stays.
alone() {
    umask 077 # others could hold the lock
    exec 9>"${state%/*}.lock"
    flock -w 120 9 || fail "another steer.sh has been at work for two minutes; see \`ps\`"
    mkdir -p "${state%/*}"
}

# The gateway misses what `down` removes within milliseconds, and asks for it: `down` is not to be undone, whichever of the two
# waits for the other. The `up` of a repair looks again, since it may have waited.
heal() {
    umask 077
    : >"$repair"
    if [ -e "$taken_down" ]; then
        rm -f "$repair"
        left_down
        return 0
    fi
    code=0
    systemctl restart egret-steering.service || code=$?
    rm -f "$repair"
    return $code
}
left_down() { printf 'steer.sh: steering was taken down with steer.sh down; not restoring it\n' | tell 4; }
start() {
    if rm "$repair" 2>/dev/null; then healing=yes; else healing=; fi
    alone
    if [ -n "$healing" ] && [ -e "$taken_down" ]; then
        left_down
        lift_guard
        return 0
    fi
    rm -f "$taken_down"
    up
}
# Sets `script` to the one that removes everything: the binary's, or what install.sh has put beside this file.
find_down() {
    if find_egret; then
        if script=$("$egret" steering print --down) && printf '%s\n' "$script" | is_whole; then return; fi
        why="$egret printed no whole script"
    fi
    beside=$(dirname "$0")/down.sh
    if [ -f "$beside" ] && is_whole <"$beside"; then script=$(cat "$beside"); else fail "$why: nothing was removed"; fi
}
down() {
    find_down
    alone
    # What is removed in part is to be repaired, and lets nothing pass until then.
    trap 'rm -f "$taken_down"; block' EXIT
    trap 'exit 143' INT TERM HUP
    : >"$taken_down"
    printf '%s\n' "$script" | sh -s
    lift_guard
    trap - EXIT
    rm -f "$marker" "$fallback" "${state%/*}"/new.*
    rmdir "${state%/*}" 2>/dev/null || :
}

case $command in
    up) start ;;
    guard) guard ;;
    down) down ;;
    heal) heal ;;
    status)
        find_egret || fail "$why"
        set -- steering status --config "$config"
        [ -z "$format" ] || set -- "$@" --format "$format"
        exec "$egret" "$@"
        ;;
esac
