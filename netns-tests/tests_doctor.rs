//! Doctor's packets among other programs' rules and settings: green where traffic passes, and where it does not, the
//! hook that takes packets is named, with a cure that works.

use crate::config::Config;
use crate::gateway::{EGRET, Files, Gateway, Rules};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::traffic::pass;
use serde_json::Value;
use std::fmt::Write as _;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

crate::trials! {
    both families: doctor_follows_one_clients_packets;
    once:
        doctor_is_green_where_traffic_passes,
        doctor_leaves_no_trace_when_killed,
        doctor_without_root_says_what_is_skipped,
        cloud_image_input_rules_are_named,
        ufw_rules_are_named,
        nftables_service_table_is_named,
        reverse_path_rule_in_later_hook_is_named,
        output_firewall_is_named,
        stateful_firewall_before_pools_is_named,
        bridge_netfilter_is_named,
        source_validation_by_mark_is_named,
        arp_ignore_is_named,
        lost_steering_is_named,
        foreign_gateways_are_not_ours
}

/// For connections that must not come about.
const BRIEF: Duration = Duration::from_millis(300);

/// One whose flows fit every machine's limits.
fn config() -> Config {
    Config { gateway: "max_flows = 1000".into(), ..Config::default() }
}

fn doctor(lab: &Lab, config: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(EGRET);
    lab.gateway.output(command.args(["doctor", "--json"]).args(more).arg("--config").arg(config))
}

/// Findings of the packets, and whether all is well.
fn packets(lab: &Lab, config: &Path) -> (bool, Vec<Value>) {
    let output = doctor(lab, config, &[]);
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    let all = report["findings"].as_array().unwrap();
    let mut found = all.clone();
    found.retain(|finding| finding["check"].as_str().unwrap().starts_with("packets"));
    (report["ok"] == true, found)
}

fn failed(found: &[Value]) -> Vec<&Value> {
    found.iter().filter(|finding| finding["level"] == "fail").collect()
}

/// Traffic passes in both families, and doctor says so.
fn assert_passes(lab: &Lab, config: &Path) {
    for family in [Family::V4, Family::V6] {
        let server = lab.listen(Host::Raw, family, 7000);
        let client = lab.connect(Tenant::Alpha, server.address());
        pass(&client, &server.accept(), b"hello");
    }
    let (ok, found) = packets(lab, config);
    assert!(ok && failed(&found).is_empty(), "{found:#?}");
    let tried = |check: &str| found.iter().filter(|finding| finding["check"] == check).count();
    assert!(tried("packets in") >= 2 && tried("packets out") >= 2, "{found:#?}");
    assert!(found.iter().any(|f| f["found"].as_str().unwrap().contains("reason not_allowed")), "{found:#?}");
}

/// Doctor says all of these words, and its cures cure it.
fn assert_named(lab: &Lab, config: &Path, words: &[&str]) {
    let (_, found) = packets(lab, config);
    let red = failed(&found);
    for word in words {
        assert!(red.iter().any(|f| f["found"].as_str().unwrap().contains(word)), "no {word:?}: {found:#?}");
    }
    // A cure for one hook may show what the next one does.
    for _ in 0..3 {
        let (_, found) = packets(lab, config);
        let red = failed(&found);
        if red.is_empty() {
            break;
        }
        for finding in red {
            let cure = finding["mend"].as_str().unwrap();
            for command in cure.split("; ").map(|part| part.split(", and in /etc").next().unwrap()) {
                if ["iptables", "ip6tables", "nft", "sysctl"]
                    .iter()
                    .any(|tool| command.starts_with(&format!("{tool} ")))
                {
                    lab.gateway.shell(command);
                }
            }
        }
    }
    assert_passes(lab, config);
}

/// True if a flow of alpha's gets to its server.
fn passes(lab: &Lab, family: Family) -> bool {
    let to = Host::Raw.at(family, 7000);
    let server = lab.server.run(|| TcpListener::bind(to)).unwrap();
    server.set_nonblocking(true).unwrap();
    let Ok(_client) = lab.try_connect(Tenant::Alpha, to, BRIEF) else { return false };
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        if server.accept().is_ok() {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

/// Doctor is red where traffic does not pass, and green where it does. Steering by iptables lets its own packets pass
/// by other rules of iptables; with nftables no table can.
fn obstacle(put: &str, words: &[&str]) {
    for rules in [Rules::Nftables, Rules::Iptables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(), rules);
        lab.gateway.shell(put);
        if passes(&lab, Family::V4) && passes(&lab, Family::V6) {
            assert_eq!(rules, Rules::Iptables, "it is no obstacle");
            assert_passes(&lab, &gateway.config());
        } else {
            assert_named(&lab, &gateway.config(), words);
        }
    }
}

fn doctor_is_green_where_traffic_passes() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(), rules);
        assert_passes(&lab, &gateway.config());
        // Settings and rules that look harmful and are not: strict reverse paths, ARP for one's own addresses alone, and what
        // Docker puts in place.
        lab.gateway.shell(
            "for scope in all default c0 s0; do
                 echo 1 >/proc/sys/net/ipv4/conf/$scope/rp_filter
                 echo 1 >/proc/sys/net/ipv4/conf/$scope/arp_ignore
                 echo 2 >/proc/sys/net/ipv4/conf/$scope/arp_announce
             done
             iptables-restore --noflush <<'RULES'
*nat
:DOCKER - [0:0]
-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
COMMIT
*filter
:FORWARD DROP [0:0]
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
-A FORWARD -j DOCKER-USER
-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A FORWARD -o docker0 -j DOCKER
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A DOCKER-USER -j RETURN
COMMIT
RULES",
        );
        assert_passes(&lab, &gateway.config());
    }
}

/// Everything that probes put on the machine.
fn traces(lab: &Lab) -> String {
    let found = lab.gateway.shell(
        "ip -br link | sed 's/@.*//' | awk '{print $1}'
         for device in c0 s0; do tc qdisc show dev $device; tc filter show dev $device egress; done
         nft list tables | grep -v -e ' filter$' -e ' mangle$' -e ' raw$' -e ' nat$' || true
         ip neigh show to 10.0.1.254 | sed 's/ [A-Z]*$//'",
    );
    found.lines().filter(|line| !line.trim().is_empty()).collect::<Vec<_>>().join("\n")
}

fn doctor_leaves_no_trace_when_killed() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let config = gateway.config();
    let before = traces(&lab);
    let (ok, found) = packets(&lab, &config);
    assert!(ok, "{found:#?}");
    assert_eq!(before, traces(&lab), "something was left");
    // In the middle of a trial that gets lost, traced or not.
    lab.gateway.shell("iptables -t mangle -I PREROUTING -i c0 -p tcp -j DROP");
    for moment in [300, 5000] {
        let mut command = Command::new(EGRET);
        let mut child = lab.gateway.spawn(
            command.args(["doctor", "--json", "--config"]).arg(&config).stdout(std::process::Stdio::null()),
        );
        crate::wait::wait_until("doctor's probe", || traces(&lab) != before);
        std::thread::sleep(Duration::from_millis(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        crate::wait::wait_until("the machine to be as before", || traces(&lab) == before);
    }
}

fn doctor_without_root_says_what_is_skipped() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let output = gateway.egret(&["doctor"]);
    assert!(text(&output).contains("not sent, in neither direction"), "{}", text(&output));
    let silent = doctor(&lab, &gateway.config(), &["--no-packets"]);
    assert!(!text(&silent).contains("packets in"), "{}", text(&silent));
}

fn doctor_follows_one_clients_packets(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let config = gateway.config();
    // The client has its address, and goes on with its own connections meanwhile.
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    pass(&client, &upstream, b"before");
    let from = Tenant::Alpha.client(family).to_string();
    let elsewhere = Host::Elsewhere.at(family, 80).to_string();
    let output = doctor(&lab, &config, &["--packet", "--from", &from, "--to", &elsewhere]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for word in ["SYN, SYN-ACK and ACK passed", "alpha", "answered by Egret itself"] {
        assert!(said.contains(word), "no {word}: {said}");
    }
    pass(&client, &upstream, b"after");
    let tool = if family == Family::V4 { "iptables" } else { "ip6tables" };
    lab.gateway.shell(&format!("{tool} -I INPUT -s {from} -p tcp -j DROP"));
    let output = doctor(&lab, &config, &["--packet", "--from", &from, "--to", &elsewhere]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("the SYN ends at input") && said.contains("chain INPUT"), "{said}");
    let output = doctor(&lab, &config, &["--packet", "--from", &from, "--to", "no-such-name.invalid"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
}

fn cloud_image_input_rules_are_named() {
    obstacle(
        "for t in iptables ip6tables; do
             $t -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             $t -A INPUT -i lo -j ACCEPT
             $t -A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
         done
         iptables -A INPUT -p icmp -j ACCEPT
         ip6tables -A INPUT -p ipv6-icmp -j ACCEPT
         iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited
         ip6tables -A INPUT -j REJECT --reject-with icmp6-adm-prohibited",
        &[
            "the SYN ends at input: table ip filter, chain INPUT, rule `reject",
            "table ip6 filter",
            "the SYN-ACK ends at input",
        ],
    );
}

fn ufw_rules_are_named() {
    obstacle(
        "for t in iptables ip6tables; do
             p=ufw; [ $t = iptables ] || p=ufw6
             for chain in before-input not-local user-input skip-to-policy-input; do $t -N $p-$chain; done
             $t -P INPUT DROP; $t -P FORWARD DROP
             $t -A INPUT -j $p-before-input
             $t -A $p-before-input -i lo -j ACCEPT
             $t -A $p-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             $t -A $p-before-input -m conntrack --ctstate INVALID -j DROP
             [ $t = iptables ] || $t -A $p-before-input -p ipv6-icmp -j ACCEPT
             $t -A $p-before-input -j $p-not-local
             $t -A $p-not-local -m addrtype --dst-type LOCAL -j RETURN
             $t -A $p-not-local -m addrtype --dst-type MULTICAST -j RETURN
             $t -A $p-not-local -j DROP
             $t -A $p-before-input -j $p-user-input
             $t -A $p-user-input -p tcp --dport 22 -j ACCEPT
         done",
        &["chain ufw-not-local", "(ufw's)", "chain ufw6-not-local", "policy drop"],
    );
}

fn nftables_service_table_is_named() {
    obstacle(
        "nft -f - <<'RULES'
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    tcp dport 22 accept
  }
}
RULES",
        &["table inet filter, chain input, rule `policy drop` (nftables.service's, /etc/nftables.conf)"],
    );
}

fn reverse_path_rule_in_later_hook_is_named() {
    obstacle(
        "nft -f - <<'RULES'
table inet guard {
  chain pre {
    type filter hook prerouting priority mangle + 10; policy accept;
    fib saddr . mark . iif oif missing drop
  }
}
RULES",
        &["the SYN ends at prerouting: table inet guard, chain pre, rule `fib saddr . mark . iif oif"],
    );
}

fn output_firewall_is_named() {
    obstacle(
        "iptables -A OUTPUT -o lo -j ACCEPT
         iptables -A OUTPUT -m conntrack --ctstate NEW,RELATED,ESTABLISHED -j ACCEPT
         iptables -P OUTPUT DROP",
        &[
            "the SYN-ACK ends at output: table ip filter, chain OUTPUT, rule `policy drop`",
            "the SYN ends at output",
        ],
    );
}

fn stateful_firewall_before_pools_is_named() {
    obstacle(
        "iptables -A INPUT -i s0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A INPUT -i s0 -j DROP",
        &["the SYN-ACK ends at input"],
    );
}

fn source_validation_by_mark_is_named() {
    obstacle(
        "for scope in all c0; do
             echo 1 >/proc/sys/net/ipv4/conf/$scope/rp_filter; echo 1 >/proc/sys/net/ipv4/conf/$scope/src_valid_mark
         done",
        &["rp_filter drops it: 1 on c0, src_valid_mark 1"],
    );
}

fn arp_ignore_is_named() {
    obstacle(
        "echo 8 >/proc/sys/net/ipv4/conf/c0/arp_ignore",
        &["gets no ARP answer for 10.0.2.1 on c0: arp_ignore=8"],
    );
}

fn lost_steering_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(), Rules::Nftables);
    let config = gateway.config();
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
    assert!(named.unwrap()["mend"].as_str().unwrap().contains("egret steering print | sh"), "{found:#?}");
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

fn foreign_gateways_are_not_ours() {
    let (lab, other) = (Lab::new(), Lab::new());
    let _theirs = other.start_gateway(&config());
    let files = Files::new(&config());
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let output = doctor(&lab, &files.config(), &[]);
    let said = text(&output);
    assert!(!said.contains("CAP_NET_ADMIN there"), "{said}");
    assert!(said.contains("nothing in this network namespace listens on port 15001"), "{said}");
}
