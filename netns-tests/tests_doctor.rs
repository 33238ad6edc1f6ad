//! Doctor's probe packets on a working gateway, for one client and for all, and their removal.

use crate::config::Config;
use crate::doctor::{assert_passes, assert_told, config, doctor, packets};
use crate::gateway::{EGRET, Files, Rules};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::traffic::pass;
use crate::wait::{wait_for, wait_until};
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::thread;

crate::trials! {
    both families: doctor_follows_one_clients_packets;
    once:
        doctor_is_green_where_traffic_passes,
        doctor_leaves_no_trace_when_killed,
        doctor_without_root_says_what_is_skipped,
        doctor_tells_what_only_the_gateway_knows,
        foreign_gateways_are_not_ours
}

fn doctor_is_green_where_traffic_passes() {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let gateway = lab.start_steered_gateway(&config(), rules);
        // Settings and rules that look harmful and are not: strict reverse paths, ARP for one's own addresses alone,
        // and Docker's rules.
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

/// Everything that probes change on the machine. A neighbour without a link address is just one that does not answer: the
/// gateway still sends to a probe that has gone.
fn traces(lab: &Lab) -> String {
    let found = lab.gateway.shell(
        "ip -br link | sed 's/@.*//' | awk '{print $1}'
         for device in c0 s0; do tc qdisc show dev $device; tc filter show dev $device egress; done
         nft list tables | grep -v -e ' filter$' -e ' mangle$' -e ' raw$' -e ' nat$' || true
         ip neigh show to 10.0.1.254 | grep -o lladdr || true",
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
    assert_eq!(before, traces(&lab), "probes left something behind");
    // During a probe whose packets are lost: probe addresses exist, and packets are traced.
    lab.gateway.shell("iptables -t mangle -I PREROUTING -i c0 -p tcp -j DROP");
    for moment in ["egp", "egret_doctor_"] {
        let mut command = Command::new(EGRET);
        let mut child = lab
            .gateway
            .spawn(command.args(["doctor", "--json", "--config"]).arg(&config).stdout(Stdio::null()));
        wait_until(moment, || traces(&lab).contains(moment));
        child.kill().unwrap();
        child.wait().unwrap();
        wait_for("the machine to be as before", || match traces(&lab) {
            now if now == before => Ok(()),
            now => Err(format!("from {before}\nto {now}")),
        });
    }
}

fn doctor_without_root_says_what_is_skipped() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let output = gateway.egret(&["doctor"]);
    assert!(text(&output).contains("not sent, in neither direction"), "{}", text(&output));
    // What only root can list is not known, which is no failure.
    for command in [&["doctor"][..], &["steering", "status"]] {
        let said = text(&gateway.egret(command));
        assert!(said.contains("only root may list packet rules"), "{said}");
        assert!(!said.contains("FAIL  IPv4 packet") && !said.contains("FAIL  packet rules"), "{said}");
    }
    assert!(gateway.egret(&["steering", "status"]).status.success());
    let silent = doctor(&lab, &gateway.config(), &["--no-packets"]);
    assert!(!text(&silent).contains("packets in"), "{}", text(&silent));
}

/// By the control socket: the verdict on a flow that TLS gives no reason of, and source addresses out of use.
fn doctor_tells_what_only_the_gateway_knows() {
    let lab = Lab::new();
    let own = config();
    let gateway = lab.start_gateway(&Config {
        gateway: format!("{}\nadmin = \"unix:{}\"", own.gateway, lab.control_socket()),
        alpha_rules: "[[tenant.allow]]\nhosts = [\"api.example.org\"]\ndestination = \"verify\"".into(),
        more: "[resolver]\nservers = [\"198.51.100.30\"]".into(),
        ..own
    });
    let config = gateway.config();
    let to = Host::Elsewhere.at(Family::V4, 443).to_string();
    let output = doctor(&lab, &config, &["--packet", "--from", "10.0.1.2", "--to", &to]);
    let said = text(&output);
    assert!(said.contains("a TLS alert") && said.contains("denied, outcome no_hostname"), "{said}");
    // Nobody answers DNS there. The kernel rations the errors that say so, and doctor's other probes cause some, too.
    lab.server.sysctl("net/ipv4/icmp_ratelimit", "0");
    assert_told(&lab, &config, &["198.51.100.30:53 cannot be reached"]);
    lab.carry_out("for n in 16 17 18 19; do egret ports drain 203.0.113.$n; done", &config);
    wait_until("IPv4 of alpha to be refused", || {
        lab.gateway.shell("nft list tables").contains("egret_families")
    });
    assert_told(
        &lab,
        &config,
        &["every IPv4 source address of pool alpha is drained: 4 of 4", "the gateway itself refuses IPv4"],
    );
}

fn doctor_follows_one_clients_packets(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&config());
    let config = gateway.config();
    // The client keeps its address, and its own connections continue meanwhile.
    let server = lab.listen(Host::Raw, family, 7000);
    let client = lab.connect(Tenant::Alpha, server.address());
    let upstream = server.accept();
    pass(&client, &upstream, b"before");
    let from = Tenant::Alpha.client(family).to_string();
    // A rule of alpha's allows the host: the connection goes on to the server itself, and its answer comes back.
    let allowed = lab.listen(Host::Raw, family, 7001);
    let output = thread::scope(|scope| {
        scope.spawn(|| {
            let mut peer = allowed.accept();
            let mut request = BufReader::new(peer.try_clone().unwrap()).lines().map(Result::unwrap);
            assert!(request.any(|line| line.is_empty()), "the request is incomplete");
            peer.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        let to = Host::Raw.at(family, 7001).to_string();
        doctor(&lab, &config, &["--packet", "--from", &from, "--to", &to])
    });
    assert!(
        output.status.success() && text(&output).contains("answered with HTTP/1.1 204"),
        "{}",
        text(&output)
    );
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
