//! `steer.sh up` with rules or arguments that are broken: the last good rules, or nothing is forwarded.

use super::{FOREIGN, in_namespace, params, scripts};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const STEER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/steer.sh");

/// Shell functions that check how an `up` ended, and start over as after a boot.
const CHECKS: &str = r#"
steer() { rc=0; "$steer" "$@" --keep $dir/kept >$dir/said 2>&1 || rc=$?; }
told() { echo "$*"; cat $dir/said; exit 1; }
boot() {
    for family in -4 -6; do ip $family rule flush protocol 230; ip $family rule flush protocol 231; done
    iptables -t mangle -F; iptables -t raw -F; nft delete table inet egret 2>/dev/null || :
    rm -rf $dir/run
    "$steer" guard
}
is_closed() {
    [ $rc = 2 ] || told "$1: exit code $rc"
    for family in -4 -6; do
        ip $family rule show | grep -q 'not from all iif lo blackhole proto 231' || told "$1: not guarded"
    done
}
is_fallen_back() {
    [ $rc = 1 ] || told "$1: exit code $rc"
    grep -q 'the last good rules, of .* are in force instead' $dir/said || told "$1: not told"
    [ -s $dir/run/fallback ] || told "$1: not noted"
    if ip rule show | grep -q 'proto 231'; then told "$1: guarded"; fi
    ip rule show | grep -q '^104:.*proto 230' || told "$1: no rules"
    diff $dir/iptables.sh $dir/kept/steering.sh || told "$1: kept"
}
"#;

/// Runs a script with `steer`, for which `egret` stands in; it cats `$dir/FORMAT.sh` for good.toml.
fn with_stand_in(cases: &str) {
    let dir = scripts(&params());
    let stand_in = r#"#!/bin/sh
    case "$*" in
        "steering print --config "*"/good.toml --format "*) cat "$dir/$6.sh" ;;
        "steering print --config "*"/silent.toml --format "*) ;;
        "steering print --config "*"/idle.toml --format "*) echo '# egret steering: end' ;;
        "steering print --down") cat "$dir/down.sh" ;;
        *) echo "egret.toml:1:1: error" >&2; exit 1 ;;
    esac
    "#;
    executable(&dir.path().join("egret"), stand_in);
    let script = format!("export dir EGRET=$dir/egret; steer={STEER}\n{FOREIGN}\n{CHECKS}\n{cases}");
    in_namespace(dir.path(), &script);
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn incomplete_kept_rules_lift_no_guard() {
    with_stand_in(
        r"
        mkdir $dir/kept; kept=$dir/kept/steering.sh; boot
        try() { steer up --config /bad.toml; is_closed $1; }
        : >$kept; try empty
        head -c 21144 /dev/zero >$kept; try NUL
        # Each line of the commands, and some of the functions before them.
        lines=$(wc -l <$dir/iptables.sh); first=$(grep -n '^need ip ' $dir/iptables.sh | cut -d : -f 1)
        [ $lines -gt $first ]
        cut=1
        while [ $cut -lt $lines ]; do
            head -n $cut $dir/iptables.sh >$kept; try line-$cut
            if [ $cut -ge $((first - 1)) ]; then cut=$((cut + 1)); else cut=$((cut + 40)); fi
        done
        head -c -3 $dir/iptables.sh >$kept; try last-line
        # So does one that is whole and has no effect.
        echo '# egret steering: end' >$kept; try idle
        cp $dir/iptables.sh $kept; steer up --config /bad.toml; is_fallen_back whole",
    );
}

#[test]
fn silent_egret_lifts_no_guard() {
    with_stand_in(
        r#"
        for broken in silent idle; do
            rm -rf $dir/kept; boot
            steer up --config /$broken.toml; is_closed $broken
            [ ! -e $dir/kept/steering.sh ] || told "$broken: kept"
            steer up --config /good.toml; [ $rc = 0 ] || told good
            boot
            steer up --config /$broken.toml; is_fallen_back $broken
        done
        cp $dir/down.sh $dir/down; : >$dir/down.sh
        if "$steer" down; then echo down; exit 1; fi
        ip rule show | grep -q 'proto 230'
        # Beside an installed script no binary is needed.
        mkdir $dir/lib; cp "$steer" $dir/lib;
        "$steer" up --config /good.toml
        for egret in $dir/egret $dir/none; do
            head -n -1 $dir/down >$dir/lib/down.sh
            if $dir/lib/steer.sh down --egret $egret; then echo part of a script; exit 1; fi
            ip rule show | grep -q 'proto 230'
            cp $dir/down $dir/lib/down.sh; $dir/lib/steer.sh down --egret $egret
            if ip rule show | grep 'proto 230'; then exit 1; fi
            "$steer" up --config /good.toml
        done"#,
    );
}

#[test]
fn mistyped_argument_leaves_last_good_rules() {
    with_stand_in(
        r#"
        steer up --config /good.toml; [ $rc = 0 ] || told good
        for arguments in '--format nftable' '--format' '--frmat nftables' '-format=nftables' down --help --keep; do
            boot
            rc=0; "$steer" up --config /good.toml --keep $dir/kept $arguments >$dir/said 2>&1 || rc=$?
            is_fallen_back "$arguments"
        done
        # A person is refused, and nothing changes.
        snapshot >$dir/before
        rc=0; "$steer" up --config /good.toml --format nftable >$dir/said 2>&1 || rc=$?
        [ $rc = 2 ] || told "without --keep: $rc"
        snapshot | diff $dir/before -
        rm -r $dir/kept; boot
        steer up --config /good.toml --format nftable; is_closed 'nothing kept'"#,
    );
}

#[test]
fn mistyped_guard_interface_guards_all() {
    with_stand_in(
        r#"
        export GUARD_INTERFACES
        for GUARD_INTERFACES in 'c0 averyveryverylong' 'c0,c1' 'c*' ' ' 'c0 c11'; do
            boot 2>/dev/null; rc=2; : >$dir/said; is_closed "$GUARD_INTERFACES"
        done
        GUARD_INTERFACES='c0 c1'; boot
        only_c1() {
            for family in -4 -6; do
                ip $family rule show | grep -q 'from all iif c1 blackhole proto 231'
                if ip $family rule show | grep 'not from all iif lo blackhole'; then told only c1; fi
            done
        }
        only_c1
        # One that is late: all are guarded until it is there.
        ip link set c1 down; ip link set c1 name c7; boot 2>$dir/said; rc=2; is_closed late
        grep -q 'there is no interface c1. Forwarding is blocked on all' $dir/said || told late
        ip link set c7 name c1; "$steer" guard; only_c1"#,
    );
}

#[test]
fn repair_undoes_no_down() {
    with_stand_in(
        r#"
        mkdir $dir/bin; mkfifo $dir/go
        cat >$dir/bin/systemctl <<'END'
#!/bin/sh
echo "$*" >$dir/asked; read -r _ <$dir/go; "$steer" guard; exec "$steer" up --config /good.toml
END
        chmod 755 $dir/bin/systemctl; export steer PATH=$dir/bin:$PATH
        asked() { while [ ! -s $dir/asked ]; do sleep 0.01; done; rm $dir/asked; }
        snapshot >$dir/before
        steer up --config /good.toml; [ $rc = 0 ] || told good
        snapshot >$dir/up
        # The gateway asks, and the repair looks, before `down` comes.
        "$steer" heal & asked
        "$steer" down; snapshot | diff $dir/before -
        echo >$dir/go; wait $!; snapshot | diff $dir/before -
        # It asks afterwards.
        "$steer" heal; [ ! -e $dir/asked ]; snapshot | diff $dir/before -
        # It is steered again, and lost.
        "$steer" guard; "$steer" up --config /good.toml; snapshot | diff $dir/up -
        iptables -t mangle -F
        "$steer" heal & asked; echo >$dir/go; wait $!; snapshot | diff $dir/up -
        # A `down` that fails is none.
        printf '%s\n' '#!/bin/sh' 'exit 1' >$dir/bin/iptables-restore; chmod 755 $dir/bin/iptables-restore
        if "$steer" down; then told down; fi
        rm $dir/bin/iptables-restore
        "$steer" heal & asked; echo >$dir/go; wait $!; snapshot | diff $dir/up -"#,
    );
}
