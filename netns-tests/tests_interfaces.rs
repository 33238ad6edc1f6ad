//! Steered interfaces: absent, later, misnamed, of a bridge, or without clients.

use crate::clients::connect_from;
use crate::config::Config;
use crate::gateway::{EGRET, Files, Rules, check, unprivileged};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::{Namespace, text};
use crate::traffic::pass;
use crate::wait::PATIENCE;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

crate::trials! {
    both families:
        misnamed_interface_lets_no_tenant_pass,
        later_interfaces_are_steered_by_pattern,
        bridge_is_steered_without_br_netfilter;
    once:
        link_name_with_peer_is_refused,
        interface_without_clients_is_named,
        clients_interface_stays_steered
}

const BRIEF: Duration = Duration::from_millis(300);

/// With forwarding on, only the tenants' sources in the rules are left to steer by.
fn misnamed_interface_lets_no_tenant_pass(family: Family) {
    for (rules, name) in Rules::BOTH.into_iter().flat_map(|rules| [(rules, "c9"), (rules, "d*")]) {
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
        assert!(!status.status.success() && text(&status).contains("arrive by c0"), "{}", text(&status));
        let checked = check(&lab, &files);
        assert!(checked.contains(&told) && checked.contains("there are: c0, s0"), "{checked}");
    }
}

fn later_interfaces_are_steered_by_pattern(family: Family) {
    for (rules, pattern) in [(Rules::Iptables, "late-*"), (Rules::Nftables, "late-+")] {
        let lab = Lab::new();
        let interfaces = format!("[\"c0\", \"{pattern}\"]");
        let config = Config { interfaces, ..Config::default() };
        let _gateway = lab.start_steered_gateway(&config, rules);
        let files = Files::new(&config);
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
    for rules in Rules::BOTH {
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
    let told = "clients in 10.0.1.0/24 arrive by c0";
    let status = text(&lab.steer("status", &gateway.config(), Rules::Iptables));
    assert!(status.contains(told), "{status}");
    let checked = text(&gateway.egret(&["check"]));
    assert!(checked.contains(told), "{checked}");
    let (ok, found) = crate::doctor::packets(&lab, &gateway.config());
    let named =
        |finding: &&serde_json::Value| finding["found"].as_str().unwrap().contains("clients arrive by c0");
    assert!(!ok && crate::doctor::failed(&found).iter().any(named), "{found:#?}");
    let flow = ["--packet", "--from", "10.0.1.2", "--to", "198.51.100.20:7000"];
    let asked = crate::doctor::doctor(&lab, &gateway.config(), &flow);
    assert_eq!(asked.status.code(), Some(1), "{}", text(&asked));
    assert!(text(&asked).contains("10.0.1.2 of alpha: clients arrive by c0"), "{}", text(&asked));
}

/// The uplink in place of the clients' interface; both exist.
fn clients_interface_stays_steered() {
    for rules in Rules::BOTH {
        let lab = Lab::new();
        let own = crate::doctor::config();
        let admin = format!("{}\nadmin = \"unix:{}\"", own.gateway, lab.control_socket());
        let config = Config { gateway: admin, ..own };
        let mut gateway = lab.start_steered_gateway(&config, rules);
        let passes = || {
            let server = lab.listen(Host::Raw, Family::V4, 7000);
            let client = lab.connect(Tenant::Alpha, server.address());
            pass(&client, &server.accept(), b"hello");
        };
        for (interface, told) in [("s0", "arrive by c0"), ("c00", "no interface c00")] {
            let mistaken = Config { interfaces: format!("[\"{interface}\"]"), ..config.clone() };
            gateway.write(&mistaken.render(&gateway.flow_log()));
            for command in ["check", "reload"] {
                let said = gateway.egret(&[command]);
                assert_eq!(said.status.code(), Some(1), "{command}: {}", text(&said));
                assert!(text(&said).contains(told), "{command}: {}", text(&said));
            }
            // Doctor goes by what is in force, and tries it.
            let path = gateway.config();
            let doctor = |more: &[&str]| {
                let mut command = Command::new(EGRET);
                command.arg("doctor").args(more).arg("--config").arg(&path);
                lab.gateway.output(command.env("STATE_DIRECTORY", path.parent().unwrap()))
            };
            let said = doctor(&["--no-packets"]);
            let one_failed = ", 1 failed";
            assert!(text(&said).contains(told) && text(&said).contains(one_failed), "{}", text(&said));
            let said = doctor(&["--packet", "--from", "10.0.1.2", "--to", "198.51.100.20:7000"]);
            assert!(text(&said).contains("handshake"), "{}", text(&said));
            passes();
            // A start refuses what a reload refuses.
            gateway.kill();
            gateway.start_again();
            assert_eq!(gateway.metric("egret_config_fallback", &[]), 1);
            passes();
            // Also where a boot has steered by these files.
            gateway.kill();
            lab.must_steer("down", &path, rules);
            lab.must_steer("up", &path, rules);
            gateway.start_again_unready();
            assert_eq!(gateway.metric("egret_config_fallback", &[]), 1);
            let (_, said) = gateway.get("/readyz").unwrap();
            assert!(said.contains(told) && !said.contains("c0, c0"), "{said}");
            gateway.write(&config.render(&gateway.flow_log()));
            lab.must_steer("up", &path, rules);
            let said = gateway.egret(&["reload"]);
            assert!(said.status.success(), "{}", text(&said));
            passes();
        }
    }
}
