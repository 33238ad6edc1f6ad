//! Doctor with kernel settings and routes that drop packets, and without steering.

use crate::doctor::{
    assert_named, assert_passes, assert_told, config, doctor, failed, obstacle, packets, passes,
};
use crate::gateway::{Files, Gateway, Rules};
use crate::lab::{Family, Host, Lab};
use crate::namespace::text;
use crate::wait::wait_until;
use std::fmt::Write as _;
use std::process::Command;

crate::trials! {
    both families: ;
    once:
        source_validation_by_mark_is_named,
        arp_ignore_is_named,
        lost_steering_is_named,
        bridge_netfilter_is_named,
        routing_rule_before_ours_is_named,
        routes_that_take_packets_are_named,
        black_hole_for_large_packets_is_told,
        downed_interface_is_named
}

fn source_validation_by_mark_is_named() {
    obstacle(
        Rules::Nftables,
        "for scope in all c0; do
             echo 1 >/proc/sys/net/ipv4/conf/$scope/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/$scope/src_valid_mark
         done",
        &["rp_filter drops it: 1 on c0, src_valid_mark 1"],
    );
}

fn arp_ignore_is_named() {
    obstacle(
        Rules::Iptables,
        "echo 8 >/proc/sys/net/ipv4/conf/c0/arp_ignore",
        &["gets no ARP answer for 10.0.2.1 on c0: arp_ignore=8"],
    );
}

fn lost_steering_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(), Rules::Nftables);
    let config = gateway.config();
    lab.gateway.shell("nft flush ruleset");
    let to = Host::Elsewhere.at(Family::V4, 443).to_string();
    let output = doctor(&lab, &config, &["--packet", "--from", "10.0.1.2", "--to", &to]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("none of Egret's packet rules is in place"), "{said}");
    // A chain that lets the trace see the packets.
    lab.gateway.shell(
        "nft -f - <<'RULES'
flush ruleset
table inet theirs {
  chain pre {
    type filter hook prerouting priority 0; policy accept;
  }
}
RULES",
    );
    let (_, found) = packets(&lab, &config);
    let named =
        failed(&found).into_iter().find(|f| f["found"].as_str().unwrap().contains("did not see the SYN"));
    assert!(named.unwrap()["help"].as_str().unwrap().contains("egret steering print | sh"), "{found:#?}");
    lab.must_steer("up", &config, Rules::Nftables);
    assert_passes(&lab, &config);
}

fn bridge_netfilter_is_named() {
    let lab = Lab::new();
    let mut commands = String::from(
        "link add br0 type bridge\nlink set br0 up\naddr flush dev c0\nlink set c0 master br0\n",
    );
    for tenant in [1, 2, 3, 9] {
        let _ = writeln!(
            commands,
            "addr add 10.0.{tenant}.1/24 dev br0\naddr add fd00:{tenant}::1/64 dev br0 nodad"
        );
    }
    lab.gateway.ip(&commands);
    for name in ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"] {
        lab.gateway.sysctl(&format!("net/bridge/{name}"), "1");
    }
    let rendered = config().render("/dev/null".as_ref()).replace("[\"c0\"]", "[\"br0\"]");
    let files = Files::with_text(&rendered.replace("/dev/audit.jsonl", "/dev/null"));
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start(&lab, files);
    if passes(&lab, Family::V4) && passes(&lab, Family::V6) {
        assert_passes(&lab, &gateway.config());
    } else {
        let words = ["net.bridge.bridge-nf-call-iptables=1", "net.bridge.bridge-nf-call-ip6tables=1"];
        assert_named(&lab, &gateway.config(), &words);
    }
}

fn routing_rule_before_ours_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let config = gateway.config();
    // For packets of VRFs alone, and for a mark that ours do not have.
    lab.gateway.shell(
        "for f in -4 -6; do ip $f rule add pref 1 l3mdev; ip $f rule add pref 2 fwmark 8/8 lookup main; done",
    );
    assert_passes(&lab, &config);
    for rule in ["pref 0 from all lookup main", "pref 3 fwmark 1/1 lookup main"] {
        lab.gateway.shell(&format!("for f in -4 -6; do ip $f rule add {rule}; done"));
        assert!(!passes(&lab, Family::V4) && !passes(&lab, Family::V6), "{rule} is no obstacle");
        let (_, found) = packets(&lab, &config);
        for family in ["IPv4: another program's `ip rule`", "IPv6: another program's `ip rule`"] {
            let named = |finding: &&serde_json::Value| {
                finding["check"] == "packets in" && finding["found"].as_str().unwrap().contains(family)
            };
            let finding = failed(&found).into_iter().find(named);
            let cure = finding.unwrap_or_else(|| panic!("{family}: {found:#?}"))["mend"].as_str().unwrap();
            assert!(cure.contains("rule del pref"), "{cure}");
        }
        lab.gateway.shell(&format!("for f in -4 -6; do ip $f rule del {rule}; done"));
        wait_until("the gateway to find its steering intact", || {
            gateway.metric("egret_steering_intact", &[]) == 1
        });
    }
    assert_passes(&lab, &config);
}

fn routes_that_take_packets_are_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    for (put, take_away, words) in [
        (
            "ip route add blackhole 10.0.1.192/26; ip -6 route add unreachable fd00:1:0:0:8000::/65",
            "ip route del blackhole 10.0.1.192/26; ip -6 route del unreachable fd00:1:0:0:8000::/65",
            &[
                "alpha, IPv4: the route to 10.0.1.254 is a blackhole",
                "alpha, IPv6: the route to fd00:1::ffff:ffff:ffff:effe is unreachable",
            ][..],
        ),
        (
            "ip rule add pref 99 iif lo ipproto tcp sport 80 to 10.0.1.0/24 blackhole",
            "ip rule del pref 99",
            &["its answer from 192.0.2.80 to 10.0.1.254 has no route"],
        ),
        (
            "ip rule add pref 99 lookup local; ip rule add pref 98 to 203.0.113.16/30 prohibit; ip rule del pref 0",
            "ip rule del pref 98; ip rule add pref 0 lookup local; ip rule del pref 99",
            &["203.0.113.16 to 192.0.2.80:80: the route to 203.0.113.16 is prohibited"],
        ),
        (
            "ip route add 192.0.2.0/24 via 198.51.100.10 table 100; ip -6 route add throw 3fff::/20 table 100",
            "ip route del 192.0.2.0/24 table 100; ip -6 route del throw 3fff::/20 table 100",
            &[
                "routing table 100 has another program's route `192.0.2.0/24 via 198.51.100.10",
                "routing table 100 has another program's route `throw 3fff::/20",
                "not ready (503): steering is not in place: IPv4: routing table 100 has another program's route `192.0.2.0/24`",
            ],
        ),
    ] {
        lab.gateway.shell(put);
        if words.iter().any(|word| word.starts_with("not ready")) {
            wait_until("the gateway to find its steering changed", || {
                gateway.metric("egret_steering_intact", &[]) == 0
            });
        }
        assert_told(&lab, &gateway.config(), words);
        lab.gateway.shell(take_away);
        wait_until("the gateway to find its steering intact", || {
            gateway.metric("egret_steering_intact", &[]) == 1
        });
    }
    assert_passes(&lab, &gateway.config());
}

fn downed_interface_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    lab.gateway.ip("link set c0 down");
    let (_, found) = assert_told(&lab, &gateway.config(), &["interface c0 of [steering] is down"]);
    let cures = failed(&found).into_iter().map(|finding| finding["mend"].as_str());
    assert!(cures.into_iter().any(|cure| cure == Some("ip link set c0 up")), "{found:#?}");
}

/// Outside the packet filter, on the way to clients.
fn black_hole_for_large_packets_is_told() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    assert_passes(&lab, &gateway.config());
    let mut commands = String::from("qdisc add dev c0 clsact\n");
    // By the highest bit of the total length: everything from 1024 bytes on.
    for (pref, bit) in (1..).zip(10..16) {
        let (value, mask) = (1 << bit, 0x1_0000 - (1 << bit));
        let _ = writeln!(
            commands,
            "filter add dev c0 egress pref {pref} protocol ip u32 match u16 {value:#x} {mask:#x} at 2 action mirred egress redirect dev lo"
        );
    }
    lab.gateway.feed(Command::new("tc").args(["-batch", "-"]), &commands);
    assert!(passes(&lab, Family::V4), "small packets are lost too");
    assert_told(&lab, &gateway.config(), &["a large packet, unlike small ones, is lost behind table ip"]);
}
