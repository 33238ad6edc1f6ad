//! Doctor with other programs' packet rules: it names the rule that drops packets, with a cure that works. How steering was put
//! in place has no bearing on that, unless a test says so.

use crate::doctor::{
    assert_named, assert_passes, assert_told, config, no_obstacle, obstacle, packets, passes,
};
use crate::gateway::Rules;
use crate::lab::{Family, Lab};
use crate::wait::{wait_for, wait_until};

crate::trials! {
    both families: ;
    once:
        cloud_image_input_rules_are_named,
        ufw_rules_are_named,
        nftables_service_table_is_named,
        input_policies_spare_neighbour_discovery,
        reverse_path_rule_in_later_hook_is_named,
        output_firewall_is_named,
        reject_of_requests_is_named,
        stateful_firewall_before_pools_is_named,
        early_hooks_are_named,
        rules_for_some_packets_are_named,
        rule_before_steering_is_named,
        egress_hook_is_named,
        path_mtu_passes_stateful_firewalls,
        lost_icmp_errors_are_reported_every_time,
        container_rules_before_ours_take_nothing
}

/// Steering by iptables exempts its own packets from other rules of iptables; with nftables no table can.
fn cloud_image_input_rules_are_named() {
    const PUT: &str = "for t in iptables ip6tables; do
             $t -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             $t -A INPUT -i lo -j ACCEPT
             $t -A INPUT -p tcp -m conntrack --ctstate NEW -m tcp --dport 22 -j ACCEPT
         done
         iptables -A INPUT -p icmp -j ACCEPT
         ip6tables -A INPUT -p ipv6-icmp -j ACCEPT
         iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited
         ip6tables -A INPUT -j REJECT --reject-with icmp6-adm-prohibited";
    no_obstacle(Rules::Iptables, PUT);
    obstacle(
        Rules::Nftables,
        PUT,
        &[
            "the SYN ends at input: table ip filter, chain INPUT, rule `reject",
            "table ip6 filter",
            "the SYN-ACK ends at input",
        ],
    );
}

fn ufw_rules_are_named() {
    obstacle(
        Rules::Nftables,
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
        Rules::Iptables,
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

/// The cure holds once the machine has to look for its IPv6 neighbours again.
fn input_policies_spare_neighbour_discovery() {
    const BY_NFTABLES: &str = "nft -f - <<'RULES'
table inet filter {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
  }
}
RULES";
    const BY_IP6TABLES: &str = "ip6tables -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         ip6tables -P INPUT DROP";
    for (put, rules) in [(BY_NFTABLES, Rules::Iptables), (BY_IP6TABLES, Rules::Nftables)] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(), rules);
        let forget = || lab.gateway.shell("ip -6 neigh flush all");
        lab.gateway.shell(put);
        forget();
        assert!(!passes(&lab, Family::V6), "traffic passes in spite of it");
        assert_named(
            &lab,
            &gateway.config(),
            &[
                "neighbour discovery ends at input",
                "does not answer on s0: neighbour discovery ends at input: table",
                "policy drop",
            ],
        );
        forget();
        assert!(passes(&lab, Family::V6), "the cure: {put}");
    }
}

fn reverse_path_rule_in_later_hook_is_named() {
    obstacle(
        Rules::Nftables,
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
        Rules::Iptables,
        "iptables -A OUTPUT -o lo -j ACCEPT
         iptables -A OUTPUT -m conntrack --ctstate NEW,RELATED,ESTABLISHED -j ACCEPT
         iptables -P OUTPUT DROP",
        &[
            "the SYN-ACK ends at output: table ip filter, chain OUTPUT, rule `policy drop`",
            "the SYN ends at output",
        ],
    );
}

/// The handshake passes, and a rule answers what follows with a reset, as one that looks into requests does.
fn reject_of_requests_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_steered_gateway(&config(), Rules::Nftables);
    lab.gateway.shell(
        "iptables -A OUTPUT -o s0 -p tcp --dport 80 -m length --length 100: -j REJECT --reject-with tcp-reset",
    );
    assert_named(&lab, &gateway.config(), &["ends at output: table ip filter, chain OUTPUT, rule"]);
}

fn stateful_firewall_before_pools_is_named() {
    obstacle(
        Rules::Nftables,
        "iptables -A INPUT -i s0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
         iptables -A INPUT -i s0 -j DROP",
        &["the SYN-ACK ends at input"],
    );
}

fn early_hooks_are_named() {
    obstacle(
        Rules::Iptables,
        "nft -f - <<'RULES'
table inet early {
  chain pre {
    type filter hook prerouting priority -500; policy accept;
    iif c0 meta l4proto tcp drop
  }
}
table netdev early {
  chain wire {
    type filter hook ingress device s0 priority -500; policy accept;
    meta l4proto tcp drop
  }
}
RULES",
        &[
            "the SYN ends at prerouting: table inet early, chain pre",
            "the SYN-ACK ends at ingress: table netdev early, chain wire",
        ],
    );
}

/// Rules that let small packets and most ports pass, and one whose cure is no command. Each has a table of its own.
fn rules_for_some_packets_are_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    for (hook, rule, words) in [
        (
            "output priority 0",
            "oifname c0 meta length > 1000 drop",
            &[
                "bytes ends at output: table inet some, chain way, rule `oifname \"c0\" meta length > 1000 drop`",
            ][..],
        ),
        (
            "postrouting priority 0",
            "oifname s0 meta length > 1400 drop",
            &["203.0.113.16 to 192.0.2.80:80: a packet of", "bytes ends at postrouting: table inet some"],
        ),
        ("input priority 0", "iifname c0 meta length > 1000 drop", &["bytes ends at input: table inet some"]),
        (
            "prerouting priority -300",
            "tcp dport 443 drop",
            &["to 192.0.2.80:443 by c0: the SYN ends at prerouting", "to [2001:db8:ffff::80]:443 by c0"],
        ),
        (
            "output priority 0",
            "tcp dport 443 drop",
            &["203.0.113.16 to 192.0.2.80:443: the SYN ends at output"],
        ),
        (
            "output priority 0",
            "tcp sport 443 reject",
            &["to 192.0.2.80:443 by c0: the SYN-ACK ends at output"],
        ),
        (
            "prerouting priority -140",
            "meta mark set 0x20",
            &[
                "another rule overwrites the mark: table inet some, chain way, rule `meta mark set 0x00000020`",
            ],
        ),
    ] {
        let table = format!("table inet some {{\nchain way {{\ntype filter hook {hook};\n{rule}\n}}\n}}");
        lab.gateway.shell(&format!("nft -f - <<'RULES'\n{table}\nRULES"));
        assert_told(&lab, &gateway.config(), words);
        lab.gateway.shell("nft delete table inet some");
    }
    assert_passes(&lab, &gateway.config());
}

fn rule_before_steering_is_named() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let config = gateway.config();
    let change = |how: &str| {
        let rule = format!("$t -t raw {how} PREROUTING ! -i lo -p tcp -j DROP");
        lab.gateway.shell(&format!("for t in iptables ip6tables; do {rule}; done"));
    };
    change("-I");
    let (_, found) = packets(&lab, &config);
    for words in [
        "the SYN ends at prerouting: table ip raw, chain PREROUTING",
        "the SYN-ACK ends at prerouting: table ip6 raw, chain PREROUTING",
    ] {
        let finding = found.iter().find(|finding| finding["found"].as_str().unwrap().contains(words));
        let cure = finding.unwrap_or_else(|| panic!("{words}: {found:#?}"))["mend"].as_str().unwrap();
        // The cure puts steering first again, and the accepting rule behind it.
        assert!(cure.contains("restart egret-steering") && cure.contains("-I PREROUTING 2 "), "{cure}");
    }
    change("-D");
    wait_until("the gateway to find its steering intact", || {
        gateway.metric("egret_steering_intact", &[]) == 1
    });
    assert_passes(&lab, &config);
}

fn egress_hook_is_named() {
    obstacle(
        Rules::Nftables,
        "nft -f - <<'RULES'
table netdev late {
  chain wire {
    type filter hook egress device c0 priority 0; policy accept;
    meta l4proto tcp drop
  }
}
RULES",
        &["the SYN-ACK ends at egress: table netdev late, chain wire"],
    );
}

/// Conntrack does not know the connections, and calls errors about them invalid unless they are kept out of it.
fn path_mtu_passes_stateful_firewalls() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(), rules);
        let before = "type filter hook HOOK priority -10; policy accept;
             ct state established,related accept
             ct state invalid drop";
        let [input, forward] = ["input", "forward"].map(|hook| before.replace("HOOK", hook));
        lab.gateway.shell(&format!(
            "nft -f - <<'RULES'\ntable inet fw {{\nchain input {{\n{input}\n}}\nchain forward {{\n{forward}\n}}\n}}\nRULES\n
             for t in iptables ip6tables; do $t -I INPUT -m conntrack --ctstate INVALID -j DROP; done"
        ));
        let (ok, found) = packets(&lab, &gateway.config());
        let heeded = |check: &str| {
            found.iter().all(|f| f["check"] != check || f["found"].as_str().unwrap().contains("path MTU"))
        };
        assert!(ok && heeded("packets in") && heeded("packets out"), "{rules:?}: {found:#?}");
        assert_eq!(
            found.iter().filter(|finding| finding["level"] == "ok").count(),
            found.len(),
            "{found:#?}"
        );
    }
}

/// The kernel remembers a smaller MTU for minutes: an error accepted once must not hide that later ones are lost.
fn lost_icmp_errors_are_reported_every_time() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    assert_passes(&lab, &gateway.config());
    lab.gateway.shell(
        "nft -f - <<'RULES'
table inet early {
  chain pre {
    type filter hook prerouting priority -350; policy accept;
    icmp type destination-unreachable drop
    icmpv6 type packet-too-big drop
  }
}
RULES",
    );
    let (_, found) = packets(&lab, &gateway.config());
    for (check, family) in
        [("packets in", "."), ("packets in", "::"), ("packets out", "."), ("packets out", "::")]
    {
        let named = found.iter().any(|finding| {
            let said = finding["found"].as_str().unwrap();
            finding["check"] == check
                && said.contains(family)
                && said.contains("ends at prerouting: table inet early")
        });
        assert!(named, "{check} {family}: {found:#?}");
    }
}

/// As Docker, Kubernetes, containerd's CNI plug-ins and Calico put them, some before Egret's.
const CONTAINERS: &str = "
for t in iptables ip6tables; do
    $t-restore --noflush <<'RULES'
*raw
:cali-PREROUTING - [0:0]
-I PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -i cali+ -j MARK --set-xmark 0x40000/0x40000
-A cali-PREROUTING -i cali+ -m rpfilter --validmark --invert -j DROP
COMMIT
*mangle
:cali-PREROUTING - [0:0]
-I PREROUTING -j cali-PREROUTING
-A cali-PREROUTING -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A cali-PREROUTING -m mark --mark 0x10000/0x10000 -j ACCEPT
COMMIT
*filter
:DOCKER - [0:0]
:DOCKER-USER - [0:0]
:DOCKER-FORWARD - [0:0]
:KUBE-FORWARD - [0:0]
:CNI-FORWARD - [0:0]
:CNI-ADMIN - [0:0]
-I FORWARD -j CNI-FORWARD
-I FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-I FORWARD -j DOCKER-FORWARD
-I FORWARD -j DOCKER-USER
-A DOCKER-USER -j RETURN
-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A DOCKER-FORWARD -o docker0 -j DOCKER
-A DOCKER-FORWARD -i docker0 -j ACCEPT
-A DOCKER ! -i docker0 -o docker0 -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A CNI-FORWARD -j CNI-ADMIN
-A CNI-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
:CNI-HOSTPORT-MASQ - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A PREROUTING -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT
-A POSTROUTING -j CNI-HOSTPORT-MASQ
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-SERVICES -p tcp -m tcp --dport 6443 -j KUBE-MARK-MASQ
-A CNI-HOSTPORT-DNAT -p tcp -m tcp --dport 8081 -j KUBE-MARK-MASQ
-A CNI-HOSTPORT-MASQ -m mark --mark 0x2000/0x2000 -j MASQUERADE
COMMIT
RULES
done";

fn container_rules_before_ours_take_nothing() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    lab.gateway.shell(CONTAINERS);
    assert_passes(&lab, &gateway.config());
    let intact = || gateway.metric("egret_steering_intact", &[]);
    // Each rule is inserted first and removed again; the gateway has checked all when it reports intact steering.
    for (harm, table, chain) in [
        ("-p tcp -j ACCEPT", "filter", "FORWARD"),
        ("-m conntrack --ctstate UNTRACKED -j ACCEPT", "mangle", "PREROUTING"),
        ("-i c+ -j ACCEPT", "raw", "PREROUTING"),
    ] {
        lab.gateway.shell(&format!("iptables -t {table} -I {chain} {harm}"));
        wait_for("the rule to be reported", || {
            let told = gateway.stderr().contains(&format!("IPv4 table {table}: {chain} does not begin"));
            if told && intact() == 0 { Ok(()) } else { Err(gateway.stderr()) }
        });
        gateway.expect_logged("rule 1 there takes packets first");
        lab.gateway.shell(&format!("iptables -t {table} -D {chain} {harm}"));
        wait_for("steering to be intact", || if intact() == 1 { Ok(()) } else { Err(gateway.stderr()) });
    }
}
