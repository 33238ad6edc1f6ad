//! The packet rules: they intercept the right packets, fail closed, and leave no trace.

use crate::clients::{connect_from, first_error};
use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Files, Gateway, Rules, unprivileged};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::{Namespace, text};
use crate::servers::Server;
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::fs;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

crate::trials! {
    both families:
        iptables_rules_fail_closed_without_gateway,
        nftables_rules_fail_closed_without_gateway,
        nftables_rules_steer_as_iptables_rules_do,
        masqueraded_pools_keep_their_addresses,
        rejected_quic_makes_clients_fall_back;
    once:
        iptables_rules_leave_no_trace,
        nftables_rules_leave_no_trace,
        iptables_leave_no_trace_on_bare_host,
        lost_record_leaves_little_trace,
        guard_spares_steering_without_record,
        changing_the_format_replaces_the_rules,
        other_interfaces_and_ports_are_untouched,
        doctor_finds_only_what_is_missing
}

/// For connections that must fail. One that could succeed would do so at once, or show at the server.
const BRIEF: Duration = Duration::from_millis(300);

fn iptables_rules_fail_closed_without_gateway(family: Family) {
    nothing_gets_out(family, Rules::Iptables);
}

fn nftables_rules_fail_closed_without_gateway(family: Family) {
    nothing_gets_out(family, Rules::Nftables);
}

/// On a gateway that forwards everything else: before it runs, while it runs, and after it was killed.
fn nothing_gets_out(family: Family, rules: Rules) {
    for ports in ["\"all\"", "[7000, 443]"] {
        let lab = Lab::new();
        lab.gateway.set_forwarding(true);
        let server = lab.listen(Host::Raw, family, 7000);
        let to = server.address();
        let uninspected = Tenant::Alpha.client(family);
        // Without steering it is forwarded.
        drop(lab.connect(Tenant::Alpha, to));
        assert_eq!(server.accept().peer_addr().unwrap().ip(), uninspected);

        let files = Files::new(&Config { steering_ports: ports.into(), ..Config::default() });
        let config = files.config();
        lab.must_steer("up", &config, rules);
        cannot_connect(&lab, to);
        server.assert_untouched();

        let mut gateway = Gateway::start(&lab, files);
        let client = lab.connect(Tenant::Alpha, to);
        let upstream = server.accept();
        assert_ne!(upstream.peer_addr().unwrap().ip(), uninspected);
        pass(&client, &upstream, b"hello");

        gateway.kill();
        for _ in 0..3 {
            cannot_connect(&lab, to);
        }
        server.assert_untouched();

        lab.must_steer("down", &config, rules);
        // It is forwarded again, so the rules had stopped it.
        drop(lab.connect(Tenant::Alpha, to));
        assert_eq!(server.accept().peer_addr().unwrap().ip(), uninspected);
    }
}

fn cannot_connect(lab: &Lab, to: SocketAddr) {
    match lab.try_connect(Tenant::Alpha, to, BRIEF) {
        Err(e) => assert!(matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::ConnectionRefused), "{e}"),
        Ok(_) => panic!("a connection to {to} came about without a gateway"),
    }
}

fn nftables_rules_steer_as_iptables_rules_do(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&Config::default(), Rules::Nftables);
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    assert!(Tenant::Alpha.owns_source(upstream.peer_addr().unwrap().ip()));
    pass(&client, &upstream, b"hello");
    let direct = lab.expect_reset(Tenant::Alpha, SocketAddr::new(family.gateway(), 15001), b"");
    gateway.expect_outcome(direct, "destination_local");
}

/// Without the rules against conntrack, NAT of others would have what the pools send leave from the machine's own address. The
/// gateway keeps its flows from that itself; without it, they are dropped.
fn masqueraded_pools_keep_their_addresses(family: Family) {
    let tables = if family == Family::V4 { "iptables" } else { "ip6tables" };
    let legacy = if family == Family::V4 { "iptables-legacy" } else { "ip6tables-legacy" };
    for (rules, lost) in [
        (Rules::Iptables, format!("{tables} -w -t raw -F EGRET_OUTPUT")),
        (Rules::Iptables, format!("{tables} -w -t raw -F")),
        (Rules::Legacy, format!("{legacy} -w -t raw -F")),
        (Rules::Nftables, "nft flush chain inet egret untrack_out".to_owned()),
    ] {
        let lab = Lab::new();
        let nat = if rules == Rules::Legacy { legacy } else { tables };
        let files = Files::new(&Config { steering: "repair = \"off\"".into(), ..Config::default() });
        let path = files.config();
        lab.must_steer("up", &path, rules);
        let mut gateway = Gateway::start(&lab, files);
        lab.gateway.shell(&format!("{nat} -w -t nat -A POSTROUTING -o s0 -j MASQUERADE"));
        let server = Server::raw(&lab, family, 7000);
        let flow = Flow::open(&lab, Tenant::Alpha, &server);
        lab.gateway.shell(&lost);
        pass(&flow.client, &flow.upstream, b"late");
        let second = Flow::open(&lab, Tenant::Alpha, &server);
        assert!(Tenant::Alpha.owns_source(second.source().ip()), "{rules:?}: {lost}");
        gateway.kill();
        if family == Family::V6 {
            lab.gateway.sysctl("net/ipv6/ip_nonlocal_bind", "1");
        }
        let dial = || lab.gateway.run(|| connect_from(family.pool(), server.address(), BRIEF));
        assert_eq!(dial().unwrap_err().kind(), ErrorKind::TimedOut, "{rules:?}: {lost}");
        server.assert_untouched();
        lab.must_steer("up", &path, rules);
        dial().unwrap();
        assert_eq!(server.accept().peer_addr().unwrap().ip(), family.pool(), "{rules:?}: {lost}");
    }
}

fn rejected_quic_makes_clients_fall_back(family: Family) {
    for (rules, forwarding) in [(Rules::Nftables, false), (Rules::Nftables, true), (Rules::Iptables, true)] {
        let told = send_to_udp_443(family, rules, forwarding, PATIENCE);
        // Between iptables' interception and its REJECT is a routing decision, which refuses too.
        let wanted = match (rules, family) {
            (Rules::Nftables, _) => ErrorKind::ConnectionRefused,
            (Rules::Iptables | Rules::Legacy, Family::V4) => ErrorKind::HostUnreachable,
            (Rules::Iptables | Rules::Legacy, Family::V6) => ErrorKind::PermissionDenied,
        };
        assert_eq!(told, wanted, "{rules:?}, forwarding {forwarding}");
    }
    // A packet that is neither delivered nor forwarded is answered over IPv6 only.
    let told = send_to_udp_443(family, Rules::Iptables, false, Duration::from_secs(1));
    let wanted = match family {
        Family::V4 => ErrorKind::WouldBlock,
        Family::V6 => ErrorKind::PermissionDenied,
    };
    assert_eq!(told, wanted);
}

/// Returns a client's error, within some time, after sending to UDP 443; the packet must not reach the server.
fn send_to_udp_443(family: Family, rules: Rules, forwarding: bool, time: Duration) -> ErrorKind {
    let lab = Lab::new();
    lab.gateway.set_forwarding(forwarding);
    let files = Files::new(&Config { steering_ports: "[80, 443]".into(), ..Config::default() });
    lab.must_steer("up", &files.config(), rules);
    let to = Host::Web.at(family, 443);
    let server = lab.server.run(|| UdpSocket::bind(to)).unwrap();
    server.set_nonblocking(true).unwrap();
    let from = SocketAddr::new(Tenant::Alpha.client(family), 0);
    let client = lab.client.run(|| UdpSocket::bind(from)).unwrap();
    client.connect(to).unwrap();
    client.send(b"an initial packet").unwrap();
    let told = first_error(&client, time);
    assert_eq!(server.recv(&mut [0; 16]).unwrap_err().kind(), ErrorKind::WouldBlock, "it reached the server");
    told
}

/// Everything that steering could change, without counters.
fn traces(gateway: &Namespace) -> String {
    let rules = gateway.shell(
        "for save in iptables-save ip6tables-save; do $save | sed -e '/^#/d' -e 's/ \\[[0-9]*:[0-9]*\\]$//'; done
         nft -s list ruleset
         for family in -4 -6; do ip $family rule; ip $family route show table all; done
         ip -4 addr; ip -6 addr",
    );
    // Without lifetimes and reference counts, which change by themselves, and numbers that may differ.
    let stable = rules.lines().filter(|line| !line.contains("valid_lft")).collect::<Vec<_>>().join("\n");
    let sysctls = gateway.run(|| {
        [
            "net/ipv4/ip_forward",
            "net/ipv6/conf/all/forwarding",
            "net/ipv4/conf/all/rp_filter",
            "net/ipv4/conf/c0/rp_filter",
            "net/ipv4/conf/all/src_valid_mark",
            "net/ipv4/ip_local_reserved_ports",
            "net/ipv4/tcp_timestamps",
            "net/ipv4/tcp_migrate_req",
            "net/core/somaxconn",
        ]
        .map(|key| format!("{key} = {}", fs::read_to_string(format!("/proc/sys/{key}")).unwrap_or_default()))
        .concat()
    });
    format!("{stable}\n{sysctls}")
}

/// Rules and routes as other programs may have added them, some of them similar to ours.
fn add_foreign_rules(gateway: &Namespace) {
    for restore in ["iptables-restore", "ip6tables-restore"] {
        gateway.feed(
            std::process::Command::new(restore).arg("--noflush"),
            "*mangle\n:THEIRS - [0:0]\n-A PREROUTING -p tcp --dport 443 -j THEIRS\n-A THEIRS -j MARK --set-mark 0x100/0x100\nCOMMIT\n\
             *filter\n-A FORWARD -i c0 -p tcp --dport 25 -j REJECT\nCOMMIT\n",
        );
    }
    gateway.feed(
        std::process::Command::new("nft").args(["-f", "-"]),
        "table inet theirs {\nchain input {\ntype filter hook input priority 0;\ntcp dport 9 drop\n}\n}\n",
    );
    gateway.shell(
        "for family in -4 -6; do
             ip $family rule add fwmark 0x100/0x100 lookup 200
             ip $family route add unreachable default table 200
         done
         ip route add local 192.0.2.1/32 dev lo
         echo 5000-5010 >/proc/sys/net/ipv4/ip_local_reserved_ports",
    );
}

fn iptables_rules_leave_no_trace() {
    rules_leave_no_trace(Rules::Iptables, true);
}

fn nftables_rules_leave_no_trace() {
    rules_leave_no_trace(Rules::Nftables, true);
}

fn iptables_leave_no_trace_on_bare_host() {
    rules_leave_no_trace(Rules::Iptables, false);
}

fn rules_leave_no_trace(rules: Rules, foreign: bool) {
    let lab = Lab::new();
    let files = Files::new(&Config::default());
    if foreign {
        add_foreign_rules(&lab.gateway);
    }
    let before = traces(&lab.gateway);
    lab.must_steer("down", &files.config(), rules);
    assert_same(&before, &traces(&lab.gateway), "a down without an up changed something");
    lab.must_steer("up", &files.config(), rules);
    let up = traces(&lab.gateway);
    assert_ne!(before, up);
    lab.must_steer("status", &files.config(), rules);
    lab.must_steer("up", &files.config(), rules);
    assert_same(&up, &traces(&lab.gateway), "a second up changed something");
    if foreign {
        for theirs in ["THEIRS", "table inet theirs"] {
            assert!(up.contains(theirs), "{theirs} is gone");
        }
    }
    lab.must_steer("down", &files.config(), rules);
    assert_same(&before, &traces(&lab.gateway), "something was left behind or taken away");
    lab.must_steer("down", &files.config(), rules);
    assert_same(&before, &traces(&lab.gateway), "a second down changed something");
    let status = lab.steer("status", &files.config(), rules);
    assert!(!status.status.success(), "status says that all is in place: {}", text(&status));
}

/// Settings that the record alone tells stay, and are named.
fn lost_record_leaves_little_trace() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        for again in [false, true] {
            let lab = Lab::new();
            let files = Files::new(&Config::default());
            let path = files.config();
            lab.gateway.sysctl("net/ipv4/ip_local_reserved_ports", "500-510,57000");
            let untold = "for name in core/somaxconn ipv4/tcp_migrate_req; do cat /proc/sys/net/$name; done";
            let before = traces(&lab.gateway);
            let settings = lab.gateway.shell(untold);
            lab.must_steer("up", &path, rules);
            fs::remove_file(lab.run.path().join("steering/state")).unwrap();
            fs::remove_file(lab.run.path().join("steering/up")).unwrap();
            lab.must_steer("status", &path, rules);
            if again {
                lab.must_steer("up", &path, rules);
            }
            let down = lab.steer("down", &path, rules);
            let told = text(&down).contains("and leaves net.core.somaxconn");
            assert!(down.status.success() && told != again, "{}", text(&down));
            for (name, value) in ["core/somaxconn", "ipv4/tcp_migrate_req"].into_iter().zip(settings.lines())
            {
                lab.gateway.sysctl(&format!("net/{name}"), value);
            }
            assert_same(&before, &traces(&lab.gateway), "something was left behind or taken away");
        }
    }
}

/// A guard without a record blocks nothing beside rules of an earlier `up`, and everything if one of them is missing.
fn guard_spares_steering_without_record() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { steering: "repair = \"off\"".into(), ..Config::default() });
    let path = gateway.config();
    let server = Server::raw(&lab, Family::V4, 7000);
    fs::remove_file(lab.run.path().join("steering/up")).unwrap();
    let guard = lab.steer("guard", &path, Rules::Iptables);
    assert!(text(&guard).contains("forwarding is not blocked"), "{}", text(&guard));
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    lab.must_steer("guard", &path, Rules::Iptables);
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    fs::remove_file(lab.run.path().join("steering/up")).unwrap();
    lab.gateway.shell("ip -6 rule flush pref 104");
    lab.must_steer("guard", &path, Rules::Iptables);
    cannot_connect(&lab, server.address());
    lab.must_steer("up", &path, Rules::Iptables);
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
}

fn assert_same(before: &str, after: &str, what: &str) {
    let lines = |a: &str, b: &str, sign: &str| {
        let gone: Vec<String> = a
            .lines()
            .filter(|line| !b.lines().any(|other| other == *line))
            .map(|line| format!("{sign} {line}"))
            .collect();
        gone.join("\n")
    };
    assert!(before == after, "{what}:\n{}\n{}", lines(before, after, "-"), lines(after, before, "+"));
}

fn changing_the_format_replaces_the_rules() {
    let lab = Lab::new();
    let files = Files::new(&Config::default());
    let before = traces(&lab.gateway);
    for rules in [Rules::Nftables, Rules::Iptables, Rules::Nftables] {
        lab.must_steer("up", &files.config(), rules);
        lab.must_steer("status", &files.config(), rules);
    }
    lab.must_steer("down", &files.config(), Rules::Nftables);
    assert_same(&before, &traces(&lab.gateway), "something was left behind");
}

fn other_interfaces_and_ports_are_untouched() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        lab.gateway.set_forwarding(true);
        let files = Files::new(&Config { steering_ports: "[80, 443]".into(), ..Config::default() });
        lab.must_steer("up", &files.config(), rules);
        for family in [Family::V4, Family::V6] {
            // A port that is not steered, from the client's side.
            let server = lab.listen(Host::Raw, family, 7000);
            let client = lab.connect(Tenant::Alpha, server.address());
            pass(&client, &server.accept(), b"not ours");
            // The gateway's own connections, and those to the client.
            let from: SocketAddr =
                if family == Family::V4 { "198.51.100.1:0" } else { "[2001:db8:51::1]:0" }.parse().unwrap();
            let server = lab.listen(Host::Web, family, 443);
            let own = lab.gateway.run(|| connect_from(from.ip(), server.address(), PATIENCE)).unwrap();
            pass(&own, &server.accept(), b"the gateway's own");
        }
    }
}

fn doctor_finds_only_what_is_missing() {
    let config = Config { gateway: "max_flows = 1000".into(), ..Config::default() };
    let lab = Lab::new();
    let files = Files::new(&config);
    let missing = lab.gateway.output(&mut unprivileged(",+net_admin", &["doctor"], &files.config()));
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
    // Its remedies work.
    let said = text(&missing);
    let remedy = said.split("or as root `").nth(1).and_then(|rest| rest.split('`').next());
    lab.carry_out(remedy.unwrap_or_else(|| panic!("no remedy: {said}")), &files.config());
    let config = files.config();
    let _gateway = Gateway::start(&lab, files);
    let well = lab.gateway.output(&mut unprivileged(",+net_admin", &["doctor"], &config));
    assert_eq!(well.status.code(), Some(0), "{}", text(&well));
}
