//! Steering on machines with conflicting rules, or with something missing.

use crate::clients::connect_from;
use crate::config::Config;
use crate::gateway::{Files, Gateway, Rules, unprivileged};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::{Namespace, text};
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::time::Duration;

crate::trials! {
    both families:
        misnamed_interface_lets_no_tenant_pass,
        later_interfaces_are_steered_by_pattern,
        bridge_is_steered_without_br_netfilter,
        flow_from_the_gateway_itself_is_refused,
        status_names_exemptions;
    once:
        link_name_with_peer_is_refused,
        interface_without_clients_is_named,
        pools_with_foreign_addresses_are_refused,
        table_or_mark_in_use_changes_nothing,
        rules_of_other_backend_are_replaced,
        mark_rule_precedes_rules_of_others,
        unintercepted_packets_are_counted
}

const BRIEF: Duration = Duration::from_millis(300);
const BOTH: [Rules; 2] = [Rules::Iptables, Rules::Nftables];

fn check(lab: &Lab, files: &Files) -> String {
    text(&lab.gateway.output(&mut unprivileged("", &["check"], &files.config())))
}

/// With forwarding on, only the tenants' sources in the rules are left to steer by.
fn misnamed_interface_lets_no_tenant_pass(family: Family) {
    for (rules, name) in BOTH.into_iter().flat_map(|rules| [(rules, "c9"), (rules, "d*")]) {
        let lab = Lab::new();
        lab.gateway.set_forwarding(true);
        let interfaces = format!("[\"{name}\"]");
        let files =
            Files::new(&Config { interfaces, steering_ports: "[80, 443]".into(), ..Config::default() });
        let complaint = format!("no interface is called {name}");
        let up = lab.steer("up", &files.config(), rules);
        assert!(up.status.success() && text(&up).contains(&complaint), "{}", text(&up));
        let server = lab.listen(Host::Web, family, 443);
        lab.try_connect(Tenant::Alpha, server.address(), BRIEF).unwrap_err();
        server.assert_untouched();
        // Other traffic is not affected.
        lab.connect(Tenant::Stranger, server.address());
        let told = format!("no interface of this machine is called {name}");
        let status = lab.steer("status", &files.config(), rules);
        assert!(text(&status).contains(&told), "{}", text(&status));
        assert_eq!(status.status.success(), name.ends_with('*'), "{}", text(&status));
        let checked = check(&lab, &files);
        assert!(checked.contains(&told) && checked.contains("there are: c0, s0"), "{checked}");
    }
}

fn later_interfaces_are_steered_by_pattern(family: Family) {
    for (rules, pattern) in [(Rules::Iptables, "late-*"), (Rules::Nftables, "late-+")] {
        let lab = Lab::new();
        let interfaces = format!("[\"c0\", \"{pattern}\"]");
        let _gateway = lab.start_steered_gateway(&Config { interfaces, ..Config::default() }, rules);
        let files = Files::new(&Config { interfaces: format!("[\"{pattern}\"]"), ..Config::default() });
        assert!(check(&lab, &files).contains("is called late-*"));
        let client = Namespace::new();
        lab.gateway.join("late-1", &client);
        lab.gateway.ip(
            "link set late-1 up\naddr add 10.0.1.193/28 dev late-1\naddr add fd00:1:0:0:d::1/80 dev late-1 nodad\n",
        );
        client.ip(
            "link set late-1 up\naddr add 10.0.1.194/28 dev late-1\naddr add fd00:1:0:0:d::2/80 dev late-1 nodad\n\
             route add default via 10.0.1.193\nroute add default via fd00:1:0:0:d::1\n",
        );
        for namespace in [&lab.gateway, &client] {
            namespace.wait_for_links();
        }
        let from: IpAddr =
            if family == Family::V4 { "10.0.1.194" } else { "fd00:1:0:0:d::2" }.parse().unwrap();
        for tenant in [None, Some(Tenant::Alpha)] {
            let server = lab.listen(Host::Raw, family, 7000);
            let to = server.address();
            let stream = match tenant {
                None => client.run(|| connect_from(from, to, PATIENCE)).unwrap(),
                Some(tenant) => lab.connect(tenant, to),
            };
            let upstream = server.accept();
            assert!(Tenant::Alpha.owns_source(upstream.peer_addr().unwrap().ip()));
            pass(&stream, &upstream, b"hello");
        }
        assert!(!check(&lab, &files).contains("is called"));
    }
}

/// With br_netfilter, as Docker sets it, no connection succeeds, and steering reports why.
fn bridge_is_steered_without_br_netfilter(family: Family) {
    for rules in BOTH {
        let lab = Lab::new();
        let client = Namespace::new();
        lab.gateway.join("p0", &client);
        lab.gateway.ip("link add br0 type bridge\nlink set br0 up\nlink set p0 master br0\nlink set p0 up\n\
             addr add 10.0.1.193/28 dev br0\naddr add fd00:1:0:0:d::1/80 dev br0 nodad\n");
        client
            .ip("link set p0 up\naddr add 10.0.1.194/28 dev p0\naddr add fd00:1:0:0:d::2/80 dev p0 nodad\n\
             route add default via 10.0.1.193\nroute add default via fd00:1:0:0:d::1\n");
        for namespace in [&lab.gateway, &client] {
            namespace.wait_for_links();
        }
        let filters = |on: &str| {
            for tool in ["iptables", "ip6tables"] {
                lab.gateway.sysctl(&format!("net/bridge/bridge-nf-call-{tool}"), on);
            }
        };
        let from: IpAddr =
            if family == Family::V4 { "10.0.1.194" } else { "fd00:1:0:0:d::2" }.parse().unwrap();
        let config = Config { interfaces: "[\"br0\"]".into(), ..Config::default() };
        filters("0");
        let gateway = lab.start_steered_gateway(&config, rules);
        let server = lab.listen(Host::Raw, family, 7000);
        let to = server.address();
        let status = || text(&gateway.egret(&["steering", "status"]));
        // The bridge may be learning for a moment before it forwards.
        let stream = client.run(|| connect_from(from, to, PATIENCE)).unwrap();
        pass(&stream, &server.accept(), b"hello");
        assert!(!status().contains("bridge"), "{}", status());
        filters("1");
        client.run(|| connect_from(from, to, BRIEF)).unwrap_err();
        assert!(status().contains("br0 is a bridge") && status().contains("bridge-nf-call-iptables=0"));
        server.assert_untouched();
        let files = Files::new(&Config { interfaces: "[\"p0\"]".into(), ..Config::default() });
        assert!(
            check(&lab, &files)
                .contains("p0 is a port of a bridge: to packet filters its packets arrive on br0")
        );
    }
}

/// A local route wider than the pools, and a tenant with every address as a source.
fn flow_from_the_gateway_itself_is_refused(family: Family) {
    let everybody = "[[tenant]]\nname = \"everybody\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\npool = \"alpha\"\n\
                     [[tenant.allow]]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\ninspect = \"none\"\n";
    let config = Config { more: everybody.into(), ..Config::default() };
    for rules in BOTH {
        let lab = Lab::new();
        lab.gateway.ip("route add local 203.0.113.0/24 dev lo\nroute add local 2001:db8:100::/64 dev lo\n");
        let gateway = lab.start_steered_gateway(&config, rules);
        let wide: IpAddr =
            if family == Family::V4 { "203.0.113.99" } else { "2001:db8:100::9:9" }.parse().unwrap();
        let client = lab.expect_reset(Tenant::Stranger, SocketAddr::new(wide, 15001), b"");
        gateway.expect_outcome(client, "destination_local");
        // Connections of the gateway itself never reach a listener, whatever addresses it knows as its own.
        let dialled =
            lab.gateway.run(|| connect_from(family.gateway(), SocketAddr::new(wide, 15001), PATIENCE));
        assert_eq!(dialled.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        gateway.wait_for_flows(1);
    }
}

/// With the exemptions of docs/steering.md.
fn status_names_exemptions(family: Family) {
    let (from, to) = (Tenant::Alpha.client(family), Host::Web.ip(family));
    let (tool, protocol) = if family == Family::V4 { ("iptables", "ip") } else { ("ip6tables", "ip6") };
    for rules in BOTH {
        let lab = Lab::new();
        lab.gateway.set_forwarding(true);
        let files = Files::new(&Config::default());
        lab.must_steer("up", &files.config(), rules);
        lab.gateway.shell(&match rules {
            Rules::Iptables | Rules::Legacy => format!(
                "for at in 'raw EGRET_PREROUTING' 'mangle EGRET_STEER' 'filter EGRET_FORWARD'; do
                     {tool} -w -t ${{at% *}} -I ${{at#* }} -s {from} -d {to} -j ACCEPT
                 done"
            ),
            Rules::Nftables => format!(
                "for chain in untrack_in steer refuse; do
                     nft insert rule inet egret $chain {protocol} saddr {from} {protocol} daddr {to} accept
                 done"
            ),
        });
        let route = if family == Family::V4 { "-4" } else { "-6" };
        lab.gateway.shell(&format!("ip {route} rule add pref 90 from {from} to {to} lookup main"));
        let server = lab.listen(Host::Web, family, 443);
        let client = lab.connect(Tenant::Alpha, server.address());
        let upstream = server.accept();
        assert_eq!(upstream.peer_addr().unwrap().ip(), from);
        pass(&client, &upstream, b"uninspected");
        let status = lab.steer("status", &files.config(), rules);
        assert!(status.status.success(), "{}", text(&status));
        let said = text(&status);
        assert!(said.contains("3 rules before Egret's") && said.contains(&from.to_string()), "{said}");
    }
}

fn link_name_with_peer_is_refused() {
    let lab = Lab::new();
    let files = Files::new(&Config { interfaces: "[\"c0@if2\"]".into(), ..Config::default() });
    for output in [
        lab.gateway.output(&mut unprivileged("", &["check"], &files.config())),
        lab.steer("up", &files.config(), Rules::Iptables),
        lab.steer("status", &files.config(), Rules::Iptables),
    ] {
        assert!(
            !output.status.success() && text(&output).contains("the name is \"c0\""),
            "{}",
            text(&output)
        );
    }
}

fn interface_without_clients_is_named() {
    let lab = Lab::new();
    let config = Config { interfaces: "[\"s0\"]".into(), ..crate::doctor::config() };
    let gateway = lab.start_gateway(&config);
    let told = "the route to 10.0.1.0/24 is by c0";
    let status = text(&lab.steer("status", &gateway.config(), Rules::Iptables));
    assert!(status.contains(told), "{status}");
    let checked = text(&gateway.egret(&["check"]));
    assert!(checked.contains(told), "{checked}");
    let (ok, found) = crate::doctor::packets(&lab, &gateway.config());
    let named = |finding: &&serde_json::Value| finding["found"].as_str().unwrap().contains("is by c0");
    assert!(!ok && crate::doctor::failed(&found).iter().any(named), "{found:#?}");
}

fn pools_with_foreign_addresses_are_refused() {
    let lab = Lab::new();
    let before = lab.gateway.shell("ip rule; ip route show table all; iptables-save | sed '/^#/d'");
    for (addresses, words) in [
        ("[\"198.51.100.0/24\"]", ["the next hop of a route: 198.51.100.10", "198.51.100.0/24 on s0"]),
        ("[\"198.51.100.8/29\"]", ["the next hop of a route: 198.51.100.10", "198.51.100.8/29"]),
        ("[\"2001:db8:51::/64\"]", ["the next hop of a route: 2001:db8:51::a", "2001:db8:51::/64 on s0"]),
    ] {
        let files = Files::new(&Config { alpha_addresses: addresses.into(), ..Config::default() });
        for rules in BOTH {
            let up = lab.steer("up", &files.config(), rules);
            let said = text(&up);
            assert!(!up.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
        }
        let status = lab.steer("status", &files.config(), Rules::Iptables);
        assert!(!status.status.success() && text(&status).contains(words[0]), "{}", text(&status));
        let checked = lab.gateway.output(&mut unprivileged("", &["check"], &files.config()));
        let said = text(&checked);
        assert!(!checked.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
    }
    let after = lab.gateway.shell("ip rule; ip route show table all; iptables-save | sed '/^#/d'");
    assert_eq!(before, after);
    // Some addresses of the same network, used by nobody else, are fine; so is the machine's own, which is reported.
    for (addresses, told) in
        [("[\"198.51.100.128/28\"]", None), ("[\"198.51.100.1\"]", Some("own connections leave"))]
    {
        let files = Files::new(&Config { alpha_addresses: addresses.into(), ..Config::default() });
        let up = lab.steer("up", &files.config(), Rules::Iptables);
        assert!(up.status.success(), "{}", text(&up));
        assert_eq!(text(&up).contains("warning"), told.is_some(), "{}", text(&up));
        assert!(told.is_none_or(|told| check(&lab, &files).contains(told)), "{}", check(&lab, &files));
    }
}

fn table_or_mark_in_use_changes_nothing() {
    let lab = Lab::new();
    let files = Files::new(&Config::default());
    for (taken, words, freed) in [
        (
            "ip route add default via 198.51.100.10 table 100",
            ["table 100", "[steering] table"],
            "ip route flush table 100",
        ),
        (
            "ip -6 route add 2001:db8:f::/48 via 2001:db8:51::a table 100",
            ["table 100", "[steering] table"],
            "ip -6 route flush table 100",
        ),
        (
            "ip rule add fwmark 0x3/0xff lookup 200",
            ["fwmark 0x3/0xff", "[steering] mark"],
            "ip rule del fwmark 0x3/0xff",
        ),
        ("ip -6 rule add fwmark 1 lookup 200", ["fwmark 0x1 ", "[steering] mark"], "ip -6 rule del fwmark 1"),
        (
            "ip rule add from 10.9.0.0/16 lookup 100",
            ["table 100", "[steering] table"],
            "ip rule del from 10.9.0.0/16",
        ),
        (
            "ip -6 rule add pref 104 from 2001:db8:f::/48 lookup 200",
            ["at 104 lies among Egret's", "above 107"],
            "ip -6 rule del pref 104",
        ),
        (
            "nft -f - <<'R'\ntable inet theirs {\nchain a {\ntype filter hook prerouting priority 0\nmeta mark set 0x11\n}\n}\nR",
            ["nftables sets 0x00000011", "[steering] mark"],
            "nft delete table inet theirs",
        ),
        (
            "iptables -t mangle -A PREROUTING -p udp -j MARK --set-mark 1",
            ["sets 0x1", "[steering] mark"],
            "iptables -t mangle -F PREROUTING",
        ),
    ] {
        lab.gateway.shell(taken);
        let traces = || {
            lab.gateway
                .shell("nft -s list ruleset; for f in -4 -6; do ip $f rule; ip $f route show table all; done")
        };
        let before = traces();
        for rules in BOTH {
            let up = lab.steer("up", &files.config(), rules);
            let said = text(&up);
            assert!(!up.status.success() && words.iter().all(|word| said.contains(word)), "{taken}: {said}");
            assert_eq!(before, traces(), "{taken}");
        }
        lab.gateway.shell(freed);
        lab.must_steer("up", &files.config(), Rules::Iptables);
        lab.must_steer("down", &files.config(), Rules::Iptables);
    }
}

fn rules_of_other_backend_are_replaced() {
    let lab = Lab::new();
    let files = Files::new(&Config::default());
    let legacy = lab.run.path().join("legacy");
    fs::create_dir(&legacy).unwrap();
    for tool in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            symlink(format!("/usr/sbin/{tool}-legacy{suffix}"), legacy.join(format!("{tool}{suffix}")))
                .unwrap();
        }
    }
    let up_with_legacy = || {
        let script = lab.gateway.output(&mut unprivileged("", &["steering", "print"], &files.config()));
        let file = lab.run.path().join("up.sh");
        fs::write(&file, script.stdout).unwrap();
        let path = format!("{}:/usr/sbin:/usr/bin:/bin", legacy.display());
        let state = lab.run.path().join("steering");
        let mut command = std::process::Command::new("sh");
        lab.gateway.check(command.arg(file).env("PATH", path).env("EGRET_STEERING_STATE", state));
    };
    let chains = || {
        let both = "{ iptables-legacy-save; ip6tables-legacy-save; iptables-nft-save; ip6tables-nft-save; }";
        lab.gateway.shell(&format!("{both} | grep -c ^:EGRET_ || :")).trim().parse::<u32>().unwrap()
    };
    up_with_legacy();
    let once = chains();
    assert!(once > 0);
    let status = lab.steer("status", &files.config(), Rules::Iptables);
    assert!(
        !status.status.success() && text(&status).contains("`iptables-legacy-save`"),
        "{}",
        text(&status)
    );
    for rules in BOTH {
        lab.must_steer("up", &files.config(), rules);
        lab.must_steer("status", &files.config(), rules);
        assert_eq!(chains(), if rules == Rules::Iptables { once } else { 0 });
        up_with_legacy();
        assert_eq!(chains(), once);
    }
    lab.must_steer("down", &files.config(), Rules::Iptables);
    assert_eq!(chains(), 0);
}

fn mark_rule_precedes_rules_of_others() {
    let lab = Lab::new();
    lab.gateway.shell(
        "ip rule add from 10.0.1.0/24 lookup 50 pref 50; ip -6 rule add from fd00:1::/64 lookup 50 pref 1",
    );
    let gateway = lab.start_gateway(&Config::default());
    for family in [Family::V4, Family::V6] {
        let server = lab.listen(Host::Raw, family, 7000);
        let client = lab.connect(Tenant::Alpha, server.address());
        pass(&client, &server.accept(), b"hello");
    }
    let overtaken = || text(&gateway.egret(&["steering", "status"])).contains("is asked before `fwmark");
    assert!(!overtaken());
    lab.gateway.shell("ip rule add from 10.0.1.0/24 lookup 60 pref 20");
    assert!(overtaken());
}

fn unintercepted_packets_are_counted() {
    for rules in BOTH {
        let lab = Lab::new();
        let files = Files::new(&Config { steering_ports: "[80, 443]".into(), ..Config::default() });
        let config = files.config();
        lab.must_steer("up", &config, rules);
        let gateway = Gateway::start(&lab, files);
        for family in [Family::V4, Family::V6] {
            for port in [53, 123, 443, 9999] {
                let from = SocketAddr::new(Tenant::Alpha.client(family), 0);
                let client = lab.client.run(|| UdpSocket::bind(from)).unwrap();
                client.send_to(b"hello", Host::Web.at(family, port)).unwrap();
            }
            lab.try_connect(Tenant::Alpha, Host::Web.at(family, 22), BRIEF).unwrap_err();
        }
        let status = text(&lab.steer("status", &config, rules));
        for expected in [
            "2 not intercepted: DNS",
            "2 not intercepted: NTP",
            "2 refused: UDP to intercepted ports",
            "2 not intercepted: UDP to other ports",
            "not intercepted: TCP to other ports",
        ] {
            assert!(status.contains(expected), "{rules:?}: no {expected:?} in\n{status}");
        }
        for kind in ["udp_refused", "unsteered_dns", "unsteered_ntp", "unsteered_udp"] {
            let metric = gateway.metric("egret_steering_dropped_packets_total", &[("kind", kind)]);
            assert_eq!(metric, 2, "{rules:?}: {kind}");
        }
    }
}
