//! `scripts/steer.sh` with a stand-in for `egret`: failures leave nothing open, and mistyped interfaces change nothing.

use super::{FOREIGN, in_namespace, params, scripts};
use std::os::unix::fs::PermissionsExt;

/// Stands in for `egret`: prints scripts of the test's directory.
const STAND_IN: &str = r#"#!/bin/sh
    case "$*" in
        "steering print --config "*"/good.toml --format iptables") cat "$dir/iptables.sh" ;;
        "steering print --config "*"/good.toml --format nftables") cat "$dir/nftables.sh" ;;
        "steering print --config "*"/typo.toml --format iptables") sed "s/\bc0\b/c00/g" "$dir/iptables.sh" ;;
        "steering print --config "*"/typo.toml --format nftables") sed "s/\bc0\b/c00/g" "$dir/nftables.sh" ;;
        "steering print --config "*"/pattern.toml --format iptables") sed "s/\bc0\b/x+/g; /^interfaces_exist/s/x+/x*/; s/iif x+/iif x*/" "$dir/iptables.sh" ;;
        "steering print --config "*"/wider.toml --format iptables") sed "s/^interfaces_exist .*/& 'veth*'/" "$dir/iptables.sh" ;;
        "steering print --config "*"/moved.toml --format iptables") sed "s/\bc0\b/c1/g; s/^interfaces_exist .*/& 'veth*'/" "$dir/iptables.sh" ;;
        "steering print --down") cat "$dir/down.sh" ;;
        "steering status --config "*"/good.toml") exit 1 ;;
        *) echo "ip link add must-not-run type dummy"; exit 2 ;;
    esac
"#;

/// Runs a script that calls `$steer` beside rules of others.
fn with_stand_in(script: &str) {
    let dir = scripts(&params());
    let egret = dir.path().join("egret");
    std::fs::write(&egret, STAND_IN).unwrap();
    std::fs::set_permissions(&egret, std::fs::Permissions::from_mode(0o755)).unwrap();
    let steer = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/steer.sh");
    let script = format!("export dir EGRET=$dir/egret; steer={steer}\n{FOREIGN}{script}");
    in_namespace(dir.path(), &script);
}

#[test]
fn failed_steer_script_leaves_nothing_open() {
    with_stand_in(
        r"
        snapshot > $dir/before
        if $steer up --config /bad.toml; then exit 1; fi
        snapshot | diff $dir/before -
        $steer up --config /good.toml
        iptables-save | grep EGRET_STEER > /dev/null
        if $steer status --config /good.toml; then exit 1; fi
        $steer up --config /good.toml --format nftables
        nft list table inet egret > /dev/null
        $steer down
        snapshot | diff $dir/before -
        # What somebody has flushed is guarded when it cannot be put back, although `guard` comes after an `up`.
        $steer up --config /good.toml
        iptables -t raw -F; iptables -t mangle -F; ip rule flush protocol 230
        $steer guard
        if $steer up --config /bad.toml; then exit 1; fi
        ip rule show | grep 'not from all iif lo blackhole proto 231'
        $steer up --config /good.toml
        if ip rule show | grep 'proto 231'; then exit 1; fi
        # So is what lacks a part of the rules, in either family; what lacks none is not.
        for loss in 'ip -6 rule flush protocol 230' 'ip rule del pref 104' 'ip -6 rule del pref 106'; do
            $loss
            if $steer up --config /bad.toml; then exit 1; fi
            for family in -4 -6; do ip $family rule show | grep 'not from all iif lo blackhole proto 231'; done
            $steer up --config /good.toml
        done
        if $steer up --config /bad.toml; then exit 1; fi
        if ip rule show | grep 'proto 231'; then exit 1; fi
        # What nobody can tell may be missing: an earlier version left the record empty.
        : >$dir/run/up
        if $steer up --config /bad.toml; then exit 1; fi
        ip rule show | grep 'not from all iif lo blackhole proto 231'
        $steer up --config /good.toml
        mkdir $dir/bin
        printf '%s\n' '#!/bin/sh' 'case $* in *rule*show) exit 1 ;; esac' 'exec '$(command -v ip)' $*' >$dir/bin/ip; chmod 755 $dir/bin/ip
        if PATH=$dir/bin:$PATH $steer up --config /bad.toml; then exit 1; fi
        ip rule show | grep 'not from all iif lo blackhole proto 231'
        $steer up --config /good.toml
        # One that waits goes on after one that removes everything.
        exec 8>$dir/run.lock; flock 8
        $steer up --config /good.toml 8>&- & waiting=$!
        while ! grep -q -- '-> FLOCK .*:'$(stat -c %i $dir/run.lock)' ' /proc/locks; do sleep 0.01; done
        rm -r $dir/run; exec 8>&-
        wait $waiting
        $steer up --config /typo.toml
        $steer up --config /good.toml
        if $steer up --format ebtables 2>/dev/null; then exit 1; fi
        if $steer 2>/dev/null; then exit 1; fi
        ",
    );
}

#[test]
fn mistyped_interface_keeps_the_rules() {
    with_stand_in(
        r"
        # A name that is nowhere, in place of one that is intercepted.
        $steer up --config /good.toml --keep $dir/kept
        iptables -t mangle -F
        if $steer up --config /typo.toml --keep $dir/kept 2>$dir/said; then exit 1; fi
        grep -q 'no interface is called c00, and traffic is intercepted on c0' $dir/said
        iptables-save -t mangle | grep -- '-i c0 ' > /dev/null
        if grep -q c00 $dir/kept/steering.sh; then exit 1; fi
        if $steer up --config /pattern.toml --keep $dir/kept 2>$dir/said; then exit 1; fi
        grep -q 'no interface is called x\*, and traffic is intercepted on c0' $dir/said
        $steer up --config /good.toml --format nftables --keep $dir/kept
        nft flush ruleset
        if $steer up --config /typo.toml --format nftables --keep $dir/kept; then exit 1; fi
        nft list table inet egret | grep 'iifname .c0. jump' > /dev/null
        # Where neither is there yet, the files count, and the kept rules stay.
        ip link set c0 down; ip link set c0 name c9
        $steer up --config /typo.toml --format nftables --keep $dir/kept 2>$dir/said
        grep -q 'not kept as the last good ones: no interface is called c00, which takes the place of c0' $dir/said
        nft list table inet egret | grep 'iifname .c00. jump' > /dev/null
        if grep -q c00 $dir/kept/steering.sh; then exit 1; fi
        ip link set c9 name c0
        if $steer up --config /typo.toml --format nftables --keep $dir/kept; then exit 1; fi
        nft list table inet egret | grep 'iifname .c0. jump' > /dev/null
        # A pattern beside an interface that is there is for interfaces that come later.
        $steer up --config /wider.toml --keep $dir/kept 2>$dir/said
        if grep -q 'not kept' $dir/said; then exit 1; fi
        grep -qF 'veth*' $dir/kept/steering.sh
        $steer up --config /good.toml --keep $dir/kept
        $steer up --config /moved.toml --keep $dir/kept
        grep -q '^interfaces_exist .*c1.*veth' $dir/kept/steering.sh
        ",
    );
}
