//! Machines where tools are missing or settings cannot be written.

use super::{FOREIGN, in_namespace, params, scripts};

/// `without PATTERN... -- COMMAND...` runs a command without the programs of these names, which fails.
const HINDRANCES: &str = r#"
without() {
    rm -rf $dir/bin; mkdir $dir/bin; ln -s /usr/bin/* /usr/sbin/* $dir/bin/ 2>/dev/null || :
    while [ $1 != -- ]; do eval "rm -f $dir/bin/$1"; shift; done
    shift
    if PATH=$dir/bin "$@" 2>$dir/said; then echo "succeeded: $*"; exit 1; fi
}
read_only() { mount --bind /proc/sys/net /proc/sys/net; mount -o remount,bind,ro /proc/sys/net; }
said() { grep -q "$1" $dir/said || { cat $dir/said; exit 1; }; }
"#;

#[test]
fn rules_outlive_no_tool_in_silence() {
    let dir = scripts(&params());
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}{HINDRANCES}
            snapshot >$dir/before
            up iptables; snapshot >$dir/there
            for script in down nftables; do
                without 'iptables*' 'ip6tables*' -- sh $dir/$script.sh; said 'tables is missing, .*: apt install iptables'
                snapshot | diff $dir/there -
                # Also without the record of them.
                mv $dir/run/state $dir/state
                without 'iptables*' 'ip6tables*' -- sh $dir/$script.sh; said 'tables is missing, .*: apt install iptables'
                mv $dir/state $dir/run/state
                without 'iptables*' 'ip6tables*' nft -- sh $dir/$script.sh
                snapshot | diff $dir/there -
            done
            up nftables; snapshot >$dir/there
            for script in down iptables; do
                without nft -- sh $dir/$script.sh; said 'nft is missing, .*: apt install nftables'
                snapshot | diff $dir/there -
            done
            # What is not needed may be missing.
            rm $dir/bin/iptables* $dir/bin/ip6tables*; ln -s $(command -v nft) $dir/bin/nft
            PATH=$dir/bin up nftables; PATH=$dir/bin down
            snapshot | diff $dir/before -"
        ),
    );
}

#[test]
fn settings_that_cannot_be_written_are_told() {
    let dir = scripts(&params());
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}{HINDRANCES}
            snapshot >$dir/before
            read_only
            without -- sh $dir/iptables.sh; said 'nothing was changed; .* a list that has 1024-'
            snapshot | diff $dir/before -"
        ),
    );
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}{HINDRANCES}
            echo 1000-65535 >/proc/sys/net/ipv4/ip_local_reserved_ports
            snapshot >$dir/before
            read_only
            up iptables 2>$dir/said
            for name in net.core.somaxconn net.ipv4.tcp_migrate_req; do said $name' stays .* cannot be written'; done
            ip rule show | grep -q '^107:.*proto 230'
            down; snapshot | diff $dir/before -"
        ),
    );
    // What was changed before cannot be put back.
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}{HINDRANCES}
            up iptables; read_only; down 2>$dir/said
            said 'net.core.somaxconn cannot be written here; left'
            if ip rule show | grep 'proto 230'; then exit 1; fi
            test ! -e $dir/run/state"
        ),
    );
}
