//! The steering scripts, run in network namespaces: they load, are idempotent, leave other rules alone, and restore the
//! previous state.

#![allow(missing_docs, clippy::unwrap_used)] // helpers outside #[test] are tests too

mod crafted;
mod fallback;
mod hindered;
mod steer_script;
mod traffic;

use egret::addr::PortRange;
use egret::interface::Interface;
use egret::steering::{
    self, FilterFormat, InterceptedPorts, SteeredPool, SteeringParams, SteeringPlan, UdpTreatment,
};
use egret::transport::Transport;
use std::path::Path;
use std::process::Command;

fn params() -> SteeringParams {
    let range = |first, last| PortRange::new(first, last).unwrap();
    let pool = |network: &str| SteeredPool { network: network.parse().unwrap(), ports: range(1024, 65535) };
    SteeringParams {
        transport: Transport::Tcp,
        interfaces: vec![Interface::parse("c0").unwrap()],
        sources: vec!["10.0.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        ports: InterceptedPorts::List(vec![range(80, 80), range(443, 443), range(8000, 8010)]),
        udp: UdpTreatment::Reject,
        listen_port: 15001,
        mark: 1,
        table: 100,
        pools: vec![
            pool("203.0.113.16/28"),
            pool("10.9.0.1/32"),
            pool("2001:db8:100::/64"),
            pool("2001:db8:9::1/128"),
        ],
        resolvers: Vec::new(),
        ephemeral: steering::default_ephemeral(),
    }
}

fn plan(format: FilterFormat, params: &SteeringParams) -> SteeringPlan {
    match format {
        FilterFormat::Iptables => steering::iptables(params),
        FilterFormat::Nftables => steering::nftables(params),
    }
}

/// Everything that steering touches, comparable byte by byte.
const SNAPSHOT: &str = r"
snapshot() {
    for tool in iptables-save ip6tables-save; do $tool | sed -e '/^#/d' -e 's/\[[0-9:]*\]/[0:0]/'; done
    nft -s list ruleset
    for family in -4 -6; do ip $family rule show; ip $family route show table all; done
    for name in ipv4/ip_local_reserved_ports ipv4/tcp_timestamps ipv4/tcp_migrate_req core/somaxconn; do
        echo $name $(cat /proc/sys/net/$name)
    done
}
up() { sh $dir/$1.sh; }
down() { sh $dir/down.sh; }
";

/// Rules, routes and settings of others, in the same and in other tables.
const FOREIGN: &str = r"
ip link set lo up
ip link add c0 type veth peer name c1
# No link-local addresses: they would appear at a time of their own.
ip link set c0 addrgenmode none; ip link set c1 addrgenmode none
ip addr add 10.9.0.1/24 dev c0
ip addr add 2001:db8:9::1/64 dev c0 nodad
ip link set c0 up; ip link set c1 up
ip rule add fwmark 0x10/0x10 lookup 77
ip route add local 198.51.100.0/24 dev lo
ip route add blackhole default table 77
echo 5353,40000-40010 > /proc/sys/net/ipv4/ip_local_reserved_ports
echo 0 > /proc/sys/net/ipv4/tcp_timestamps
";
const FOREIGN_RULES: &str = r"
iptables -A FORWARD -i c0 -p tcp --dport 443 -j ACCEPT
iptables -t mangle -A PREROUTING -p tcp --dport 22 -j MARK --set-mark 0x10
iptables -t mangle -A PREROUTING -p tcp --dport 22 -j CONNMARK --set-mark 1
iptables -N EGRESS_AUDIT; iptables -A EGRESS_AUDIT -j RETURN; iptables -A INPUT -j EGRESS_AUDIT
ip6tables -t nat -A POSTROUTING -o c0 -j MASQUERADE
nft 'table inet mine { chain forward { type filter hook forward priority 0; tcp dport 443 ct mark set 0x1 accept; }; }'
";

/// Runs a script as root of a new user, network and mount namespace; returns its output.
fn in_namespace(dir: &Path, script: &str) -> String {
    let script = format!("set -eu; dir={}; {SNAPSHOT}\n{script}", dir.display());
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", &script])
        .env("EGRET_STEERING_STATE", dir.join("run/state"))
        .env("PATH", std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin")
        .output()
        .expect("unshare (util-linux) is needed");
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (said(&output.stdout), said(&output.stderr));
    assert!(output.status.success(), "failed:\n{script}\n--- stdout\n{out}\n--- stderr\n{err}");
    out
}

/// A directory with the scripts of both formats and of `down`.
fn scripts(params: &SteeringParams) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for format in [FilterFormat::Iptables, FilterFormat::Nftables] {
        let name = format!("{}.sh", format.as_str());
        std::fs::write(dir.path().join(name), plan(format, params).to_string()).unwrap();
    }
    std::fs::write(dir.path().join("down.sh"), steering::down()).unwrap();
    dir
}

fn repeated_up_and_down_restores_the_host(format: FilterFormat, foreign_rules: &str) {
    let dir = scripts(&params());
    let format = format.as_str();
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}{foreign_rules}
            snapshot > $dir/before
            up {format}; snapshot > $dir/once
            up {format}; snapshot > $dir/twice
            diff $dir/once $dir/twice
            if diff -q $dir/before $dir/once; then echo up did nothing; exit 1; fi
            grep -v -x -F -f $dir/once $dir/before > $dir/lost || :
            down; snapshot > $dir/after
            diff $dir/before $dir/after
            down; snapshot > $dir/after
            diff $dir/before $dir/after
            test ! -e $dir/run/state"
        ),
    );
    let lost = std::fs::read_to_string(dir.path().join("lost")).unwrap();
    let changed: Vec<_> =
        lost.lines().filter(|line| !line.starts_with("ipv4/") && !line.starts_with("core/")).collect();
    assert!(changed.is_empty(), "up took away {changed:?}");
}

#[test]
fn iptables_rules_are_removed_whole() {
    repeated_up_and_down_restores_the_host(FilterFormat::Iptables, "");
}

#[test]
fn iptables_rules_coexist_with_others() {
    repeated_up_and_down_restores_the_host(FilterFormat::Iptables, FOREIGN_RULES);
}

#[test]
fn nftables_rules_are_removed_whole() {
    repeated_up_and_down_restores_the_host(FilterFormat::Nftables, "");
}

#[test]
fn nftables_rules_coexist_with_others() {
    repeated_up_and_down_restores_the_host(FilterFormat::Nftables, FOREIGN_RULES);
}

#[test]
fn one_format_replaces_the_other() {
    let dir = scripts(&params());
    in_namespace(
        dir.path(),
        &format!(
            r"{FOREIGN}
            snapshot > $dir/before
            up nftables; snapshot > $dir/nftables
            up iptables; snapshot > $dir/iptables
            if grep 'table inet egret' $dir/iptables; then exit 1; fi
            up nftables; snapshot > $dir/again
            diff $dir/nftables $dir/again
            down; snapshot > $dir/after
            diff $dir/before $dir/after"
        ),
    );
}

#[test]
fn changed_configuration_replaces_rules() {
    let old = scripts(&params());
    let range = |first, last| PortRange::new(first, last).unwrap();
    let pool = SteeredPool { network: "192.0.2.0/30".parse().unwrap(), ports: range(20000, 20009) };
    let (mark, table) = (0x40, 1234);
    let changed = SteeringParams {
        mark,
        table,
        ports: InterceptedPorts::All,
        udp: UdpTreatment::Drop,
        pools: vec![pool],
        ..params()
    };
    let new = scripts(&changed);
    for format in ["iptables", "nftables"] {
        let shown = in_namespace(
            old.path(),
            &format!(
                r"{FOREIGN}
                snapshot > $dir/before
                up {format}
                sh {new}/{format}.sh
                ip rule show; ip -6 rule show; ip route show table all proto 230; ip -6 route show table all proto 230
                cat /proc/sys/net/ipv4/ip_local_reserved_ports
                iptables-save; nft list ruleset
                down; snapshot > $dir/after
                diff $dir/before $dir/after",
                new = new.path().display()
            ),
        );
        for gone in ["fwmark 0x1/0x1", "203.0.113", "2001:db8:100", "--dport 443", "tcp dport { 80"] {
            let ours = shown.lines().filter(|line| !line.contains("192.0.2.0/30"));
            let left: Vec<_> = ours.filter(|line| line.contains(gone)).collect();
            assert!(left.is_empty(), "{format}: {left:?}");
        }
        for there in
            ["fwmark 0x40/0x40 lookup 1234", "local 192.0.2.0/30 dev lo", "5353,20000-20009,40000-40010"]
        {
            assert!(shown.contains(there), "{format}: no {there} in\n{shown}");
        }
    }
}

#[test]
fn foreign_setting_changes_are_kept() {
    let dir = scripts(&params());
    let shown = in_namespace(
        dir.path(),
        r"ip link set lo up
        up iptables
        echo 7777 > /proc/sys/net/core/somaxconn
        down 2>&1
        cat /proc/sys/net/core/somaxconn /proc/sys/net/ipv4/tcp_migrate_req",
    );
    assert!(shown.contains("net.core.somaxconn was changed by somebody since; left as it is"), "{shown}");
    assert!(shown.ends_with("7777\n0\n"), "{shown}");
}

#[test]
fn status_reports_missing_parts() {
    for format in [FilterFormat::Iptables, FilterFormat::Nftables] {
        for params in
            [params(), SteeringParams { ports: InterceptedPorts::All, udp: UdpTreatment::Drop, ..params() }]
        {
            let dir = scripts(&params);
            let (name, table) = (format.as_str(), params.table);
            in_namespace(
                dir.path(),
                &format!(
                    r"{FOREIGN}
                    up {name}
                    iptables-save > $dir/iptables; ip6tables-save > $dir/ip6tables
                    nft list table inet egret > $dir/nft 2>/dev/null || :
                    for family in 4 6; do
                        ip -N -$family rule show > $dir/rules$family
                        ip -N -$family route show table all type local > $dir/routes$family
                        ip -$family route show table {table} > $dir/table$family
                    done
                    cat /proc/sys/net/ipv4/ip_local_reserved_ports > $dir/reserved"
                ),
            );
            let read = |name: &str| std::fs::read_to_string(dir.path().join(name)).ok();
            let observed = steering::SteeringOutput {
                is_denied: false,
                iptables: read("iptables"),
                ip6tables: read("ip6tables"),
                nftables: read("nft").filter(|text| !text.is_empty()),
                rules: [read("rules4"), read("rules6")],
                routes: [read("routes4"), read("routes6")],
                steering_tables: [read("table4"), read("table6")],
                interfaces: vec!["c0".to_owned()],
                reserved_ports: read("reserved"),
                other_backend: Vec::new(),
            };
            let wrong = |observed: &steering::SteeringOutput| -> Vec<_> {
                let differences = steering::compare(&plan(format, &params), observed);
                differences.into_iter().filter_map(|difference| difference.wrong).collect()
            };
            assert_eq!(wrong(&observed), Vec::<String>::new(), "{name}");
            let vanished = steering::SteeringOutput { iptables: None, nftables: None, ..observed };
            assert_eq!(wrong(&vanished).len(), 1, "{name}");
        }
    }
}

/// Each configuration is put in place from each other one by a single `up`.
#[test]
fn sources_and_ports_replace_each_other() {
    let everybody = SteeringParams { sources: vec!["0.0.0.0/0".parse().unwrap()], ..params() };
    let last = InterceptedPorts::List(vec![PortRange::new(1, 65535).unwrap()]);
    let last = SteeringParams { ports: last, ..params() };
    let dirs = [params(), everybody, last].map(|params| scripts(&params));
    let [some, all, ports] = dirs.each_ref().map(|dir| dir.path().display());
    let said = in_namespace(
        dirs[0].path(),
        &format!(
            r"{FOREIGN}
            for dir in {some} {all} {ports}; do
                down; up iptables; snapshot > $dir/alone
            done
            for dir in {some} {all} {some} {ports} {all} {ports} {some}; do
                up iptables; snapshot | sort > $dir/after
                sort $dir/alone | diff - $dir/after
            done
            echo each"
        ),
    );
    assert_eq!(said, "each\n");
}

#[test]
fn repeated_interfaces_make_each_rule_once() {
    let interfaces = ["c0", "c*", "c0", "c0*"].map(|name| Interface::parse(name).unwrap());
    let params = SteeringParams { interfaces: interfaces.into(), ..params() };
    let dir = scripts(&params);
    for format in ["iptables", "nftables"] {
        let said = in_namespace(
            dir.path(),
            &format!(
                r"{FOREIGN}
                up {format}; snapshot > $dir/once
                up {format}; snapshot | diff $dir/once -
                for family in -4 -6; do ip $family rule show; done | grep -c 'iif c0 .*proto 230'
                ip -N route show table all type local proto 230 | grep -c 203.0.113.16/28"
            ),
        );
        // One in each family; and the steps after them.
        assert_eq!(said, "2\n1\n", "{format}");
    }
}
