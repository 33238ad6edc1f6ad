//! The resolver with real DNS: answers that rotate, fail, are late, long, or differ.

use crate::config::{Config, NO_SOCKET};
use crate::dns::Dns;
use crate::gateway::{Files, Gateway, Rules, unprivileged, with_resolv_conf};
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::verified::{NAME, config, denied, reach, rule, with_rules};
use crate::wait::{wait_for, wait_until};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tempfile::TempDir;

crate::trials! {
    both families: ;
    once:
        rotated_addresses_stay_acceptable,
        rule_names_are_prefetched_and_outlive_resolver,
        no_dns_answer_denies_flows,
        silent_resolver_delays_only_until_deadline,
        truncated_answer_is_fetched_over_tcp,
        answers_of_all_resolvers_count,
        absent_addresses_differ_from_silent_resolver,
        system_servers_may_come_late
}

/// As on a machine that boots before DHCP has answered.
fn system_servers_may_come_late() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    let folder = TempDir::with_prefix("egret-resolv-").unwrap();
    let resolv_conf = folder.path().join("resolv.conf");
    let config = Config { gateway: NO_SOCKET.into(), ..with_rules(&rule("verify"), "servers = \"system\"") };
    for (before, why) in [("", "it has no `nameserver` line"), ("nameserver 127.1\n", "is no address")] {
        fs::write(&resolv_conf, before).unwrap();
        let files = Files::new(&config);
        lab.must_steer("up", &files.config(), Rules::Iptables);
        let mut check = with_resolv_conf(&unprivileged("", &["check"], &files.config()), &resolv_conf);
        let check = lab.gateway.output(&mut check);
        let named = "cannot look names up: /etc/resolv.conf names no DNS server";
        assert!(check.status.success() && text(&check).contains(named), "{}", text(&check));
        let run = with_resolv_conf(&files.run(), &resolv_conf);
        let gateway = Gateway::start_as(&lab, files, run);
        let said = gateway.stderr();
        assert!(said.contains(named) && said.contains(why), "{said}");
        let ready = gateway.get("/readyz").unwrap().1;
        assert!(ready.contains("note: cannot look names up"), "{ready}");
        denied(&lab, &gateway, server.address(), NAME, "resolver_unavailable");
        fs::write(&resolv_conf, "\u{feff}nameserver 198.51.100.10\n").unwrap();
        gateway
            .wait_for_metric("egret_resolver_lookups_total", &[("result", "answered")], |count| count >= 1);
        reach(&lab, &gateway, server.address(), NAME, &server);
        assert_eq!(gateway.get("/readyz").unwrap().1, "ready\n");
        // A reload while the file is empty keeps the servers that it named.
        fs::write(&resolv_conf, "").unwrap();
        gateway.reload(&config.render(&gateway.flow_log()));
        wait_until("the reload to be logged", || gateway.stderr().contains("reloaded"));
        reach(&lab, &gateway, server.address(), NAME, &server);
    }
}

fn rotated_addresses_stay_acceptable() {
    let lab = Lab::new();
    let [old, new] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let name = "rotates.cdn.example.org";
    let mut dns = Dns::start(&lab, Host::Web, &[(name, old.address().ip())]);
    let gateway = lab.start_gateway(&config("verify"));
    reach(&lab, &gateway, old.address(), name, &old);
    denied(&lab, &gateway, new.address(), name, "destination_mismatch");
    dns.say(&[(name, new.address().ip())]);
    // Within a second of the last lookup it is not looked up again.
    wait_for("the new address to be found", || {
        let client = lab.send(Tenant::Alpha, new.address(), &Hello::to(name).record());
        let local = client.local_addr().unwrap();
        wait_until("the flow to be accepted or denied", || {
            let denied = || gateway.flows().iter().any(|flow| flow["client"] == local.to_string());
            new.accept_those_that_came().pop().is_some() || denied()
        });
        drop(client);
        let flow = gateway.flow_from(local);
        if flow["address_check"] == "match" { Ok(()) } else { Err(flow["outcome"].to_string()) }
    });
    reach(&lab, &gateway, old.address(), name, &old);
}

fn rule_names_are_prefetched_and_outlive_resolver() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let dns = Dns::start(&lab, Host::Web, &[(NAME, server.address().ip())]);
    let config = config("verify");
    let gateway = lab.start_gateway(&config);
    gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "answered")], |count| count >= 1);
    dns.stop();
    reach(&lab, &gateway, server.address(), NAME, &server);
    // and a reload keeps the cache
    gateway.reload(&config.render(&gateway.flow_log()));
    wait_until("the reload to be logged", || gateway.stderr().contains("reloaded"));
    reach(&lab, &gateway, server.address(), NAME, &server);
    denied(&lab, &gateway, server.address(), "new.cdn.example.org", "resolver_unavailable");
}

fn no_dns_answer_denies_flows() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    for destination in ["verify", "resolve"] {
        // no server listens there
        let gateway = lab.start_gateway(&with_rules(&rule(destination), "servers = [\"198.51.100.11\"]"));
        for name in [NAME, "a.cdn.example.org"] {
            let flow = denied(&lab, &gateway, server.address(), name, "resolver_unavailable");
            assert_eq!(flow["detail"], "no DNS server answered, or only with an error", "{flow:#}");
            assert_eq!(flow["address_check"], "unknown", "{flow:#}");
        }
        server.assert_untouched();
        gateway.wait_for_metric("egret_resolver_lookups_total", &[("result", "failed")], |count| count >= 2);
    }
}

fn silent_resolver_delays_only_until_deadline() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        inspect: "deadline = \"2s\"".into(),
        ..with_rules(&rule("verify"), "servers = [\"198.51.100.41\"]")
    });
    let server = lab.listen(Host::Named, Family::V4, 443);
    let start = Instant::now();
    let flow = denied(&lab, &gateway, server.address(), NAME, "resolver_unavailable");
    assert!(flow["detail"].as_str().unwrap().contains("deadline"), "{flow:#}");
    let lookup = Duration::from_secs(5);
    assert!((Duration::from_secs(2)..lookup).contains(&start.elapsed()), "{:?}", start.elapsed());
    server.assert_untouched();
}

fn truncated_answer_is_fetched_over_tcp() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let many = (0..200).map(|n| (NAME, IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))));
    let records: Vec<_> = many.chain([(NAME, server.address().ip())]).collect();
    let _dns = Dns::start_with(&lab, Host::Web, &records, &["--edns-packet-max=512"]);
    let gateway = lab.start_gateway(&config("verify"));
    reach(&lab, &gateway, server.address(), NAME, &server);
}

fn answers_of_all_resolvers_count() {
    let lab = Lab::new();
    let [one, two] = [Host::Named, Host::Elsewhere].map(|host| lab.listen(host, Family::V4, 443));
    let _dns = [(Host::Web, &one), (Host::Inspected, &two)]
        .map(|(host, server)| Dns::start(&lab, host, &[(NAME, server.address().ip())]));
    let servers = "servers = [\"198.51.100.10\", \"198.51.100.21:53\", \"198.51.100.20\"]";
    let gateway = lab.start_gateway(&with_rules(&rule("verify"), servers));
    reach(&lab, &gateway, one.address(), NAME, &one);
    reach(&lab, &gateway, two.address(), NAME, &two);
    denied(&lab, &gateway, Host::Web.at(Family::V4, 443), NAME, "destination_mismatch");
}

fn absent_addresses_differ_from_silent_resolver() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V6, 443);
    let _dns = Dns::start(&lab, Host::Web, &[(NAME, Host::Named.ip(Family::V4))]);
    let gateway = lab.start_gateway(&config("verify"));
    for name in [NAME, "none.cdn.example.org"] {
        let flow = denied(&lab, &gateway, server.address(), name, "destination_mismatch");
        assert_eq!(flow["address_check"], "absent", "{flow:#}");
    }
    drop(gateway);
    let gateway = lab.start_gateway(&config("resolve"));
    let flow = denied(&lab, &gateway, server.address(), "none.cdn.example.org", "name_unresolved");
    assert_eq!(flow["address_check"], "absent", "{flow:#}");
}
