//! Steering on machines with conflicting rules, or with something missing.

use crate::clients::connect_from;
use crate::config::Config;
use crate::gateway::{Files, Gateway, Rules, check, unprivileged};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::symlink;
use std::time::Duration;

crate::trials! {
    both families:
        flow_from_the_gateway_itself_is_refused,
        status_names_exemptions;
    once:
        pools_with_foreign_addresses_are_refused,
        reload_refuses_pool_with_next_hop,
        table_or_mark_in_use_changes_nothing,
        rules_of_other_backend_are_replaced,
        mark_rule_precedes_rules_of_others,
        unintercepted_packets_are_counted
}

const BRIEF: Duration = Duration::from_millis(300);

/// A local route wider than the pools, and a tenant with every address as a source.
fn flow_from_the_gateway_itself_is_refused(family: Family) {
    let everybody = "[[tenant]]\nname = \"everybody\"\nsources = [\"0.0.0.0/0\", \"::/0\"]\npool = \"alpha\"\n\
                     [[tenant.allow]]\ncidrs = [\"0.0.0.0/0\", \"::/0\"]\ninspect = \"none\"\n";
    let config = Config { more: everybody.into(), ..Config::default() };
    for rules in Rules::BOTH {
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
    for rules in Rules::BOTH {
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

fn pools_with_foreign_addresses_are_refused() {
    let lab = Lab::new();
    let before = lab.gateway.shell("ip rule; ip route show table all; iptables-save | sed '/^#/d'");
    for (addresses, words) in [
        ("[\"198.51.100.0/24\"]", ["the next hop of a route: 198.51.100.10", "198.51.100.0/24 on s0"]),
        ("[\"198.51.100.8/29\"]", ["the next hop of a route: 198.51.100.10", "198.51.100.8/29"]),
        ("[\"2001:db8:51::/64\"]", ["the next hop of a route: 2001:db8:51::a", "2001:db8:51::/64 on s0"]),
    ] {
        let files = Files::new(&Config { alpha_addresses: addresses.into(), ..Config::default() });
        for rules in Rules::BOTH {
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

/// As `egret check` and `egret steering print` do; and so does a start.
fn reload_refuses_pool_with_next_hop() {
    let lab = Lab::new();
    let own = crate::doctor::config();
    let gateway = format!("{}\nadmin = \"unix:{}\"", own.gateway, lab.control_socket());
    let config = Config { gateway, ..own };
    let mut gateway = lab.start_steered_gateway(&config, Rules::Nftables);
    let passes = || {
        let server = lab.listen(Host::Raw, Family::V4, 7000);
        let client = lab.connect(Tenant::Alpha, server.address());
        pass(&client, &server.accept(), b"hello");
    };
    for (addresses, told) in [
        ("[\"198.51.100.8/29\", \"2001:db8:100::/64\"]", "the next hop of a route: 198.51.100.10"),
        ("[\"203.0.113.16/28\", \"2001:db8:51::/64\"]", "the next hop of a route: 2001:db8:51::a"),
    ] {
        let mistaken = Config { alpha_addresses: addresses.into(), ..config.clone() };
        gateway.write(&mistaken.render(&gateway.flow_log()));
        for command in ["check", "reload"] {
            let said = gateway.egret(&[command]);
            assert_eq!(said.status.code(), Some(1), "{command}: {}", text(&said));
            assert!(text(&said).contains(told), "{command}: {}", text(&said));
            assert!(
                text(&said).contains("; remove them from [[pool]] addresses"),
                "{command}: {}",
                text(&said)
            );
        }
        passes();
        gateway.kill();
        gateway.start_again();
        assert_eq!(gateway.metric("egret_config_fallback", &[]), 1);
        passes();
        gateway.write(&config.render(&gateway.flow_log()));
        let said = gateway.egret(&["reload"]);
        assert!(said.status.success(), "{}", text(&said));
        assert_eq!(gateway.metric("egret_config_fallback", &[]), 0);
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
            "nft -f - <<'R'\ntable inet theirs {\nchain a {\ntype filter hook prerouting priority 0\nct mark set 0x20 meta mark set 0x11\n}\n}\nR",
            ["nftables sets 0x00000011", "[steering] mark"],
            "nft delete table inet theirs",
        ),
        (
            "nft -f - <<'R'\ntable ip mangle {\nchain theirs {\ntype filter hook prerouting priority 0\nmeta mark set 0x11\n}\n}\nR",
            ["sets 0x", "[steering] mark"],
            "nft delete table ip mangle",
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
        for rules in Rules::BOTH {
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
        let state = lab.run.path().join("steering/state");
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
    for rules in Rules::BOTH {
        let said = text(&lab.steer("up", &files.config(), rules));
        assert!(!said.contains("legacy tables present"), "{said}");
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
    for rules in Rules::BOTH {
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
