//! A family without a route or a pool address is refused before the handshake, so that clients with both use the other one.

use crate::config::Config;
use crate::flows::Flow;
use crate::gateway::{Gateway, Rules};
use crate::lab::{Family, Host, Lab, Tenant};
use crate::namespace::text;
use crate::nginx::Nginx;
use crate::rollout::Rollout;
use crate::servers::Server;
use crate::wait::{PATIENCE, wait_for, wait_until};
use serde_json::Value;
use std::fs;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

crate::trials! {
    both families:
        clients_fall_back_without_pool_family,
        clients_fall_back_without_route,
        withdrawn_addresses_refuse_only_their_family,
        partial_route_is_not_refused,
        pool_without_route_is_refused,
        pool_with_some_routes_is_not_refused,
        pool_with_own_table_is_not_refused,
        own_addresses_and_other_ports_stay_open;
    once:
        reload_adding_the_family_ends_refusal,
        wholly_unavailable_pool_still_answers,
        check_and_doctor_name_refused_family
}

fn other(family: Family) -> Family {
    match family {
        Family::V4 => Family::V6,
        Family::V6 => Family::V4,
    }
}

/// Alpha's pool without one family.
fn without(family: Family) -> Config {
    let alpha_addresses = match family {
        Family::V4 => "[\"2001:db8:100::/120\"]",
        Family::V6 => "[\"203.0.113.16/30\"]",
    };
    Config { alpha_addresses: alpha_addresses.into(), ..Config::default() }
}

/// Runs a program of the client's that finds two addresses for `allowed.example.org`, first of one family and then of
/// the other: in a mount namespace with its own `/etc/hosts`, and with an address selection (RFC 6724) that prefers it.
fn run(lab: &Lab, first: Family, program: &str) -> Output {
    let dir = TempDir::with_prefix("egret-client-").unwrap();
    let hosts: Vec<_> =
        [first, other(first)].map(|family| format!("{} allowed.example.org", Host::Web.ip(family))).into();
    fs::write(dir.path().join("hosts"), hosts.join("\n") + "\n").unwrap();
    let v4 = if first == Family::V4 { 100 } else { 10 };
    let gai = format!(
        "label ::/0 1\nlabel ::ffff:0:0/96 4\nprecedence ::/0 40\nprecedence ::ffff:0:0/96 {v4}\n\
         scopev4 ::ffff:0.0.0.0/96 14\n"
    );
    fs::write(dir.path().join("gai.conf"), gai).unwrap();
    let mounts = "for file in hosts gai.conf; do [ -e /etc/$file ] || : >/etc/$file; \
                  mount --bind $dir/$file /etc/$file; done";
    let script = format!("dir={}; {mounts}; unset http_proxy https_proxy; {program}", dir.path().display());
    lab.client.output(Command::new("unshare").args(["--mount", "sh", "-ec", &script]))
}

const PYTHON: &str = "import urllib.request as u; \
    print(u.build_opener(u.ProxyHandler({})).open('http://allowed.example.org/', timeout=20).read().decode())";
const NODE: &str = "require('http').get('http://allowed.example.org/', r => r.on('data', d => console.log(`${d}`)))\
    .on('error', e => { console.error(e); process.exit(1) })";

/// curl, wget, Python and node get the page by the other family.
fn clients_fall_back(lab: &Lab, dead: Family) {
    let programs = [
        "curl --noproxy '*' -sS --max-time 20 http://allowed.example.org/".to_owned(),
        "curl --noproxy '*' -sS --max-time 20 -k https://allowed.example.org/".to_owned(),
        "wget -nv -T 20 -t 1 -O - http://allowed.example.org/".to_owned(),
        format!("python3 -c \"{PYTHON}\""),
        format!("node -e \"{}\"", NODE.replace('`', "\\`").replace('$', "\\$")),
    ];
    let alive = other(dead);
    for program in programs {
        let start = Instant::now();
        let output = run(lab, dead, &program);
        let (took, said) = (start.elapsed(), text(&output));
        assert!(output.status.success(), "{program}: {said}");
        let from = said.split("from=").nth(1).and_then(|rest| rest.split_whitespace().next());
        let from = from.unwrap_or_else(|| panic!("{program}: {said}")).parse().unwrap();
        assert!(Tenant::Alpha.owns_source(from), "{program}: {said}");
        assert_eq!(from.is_ipv4(), alive == Family::V4, "{program}: {said}");
        println!("{:?} by {alive:?}: {}", took, program.split(' ').next().unwrap());
    }
}

/// SYNs that clients have sent again.
fn repeated_syns(lab: &Lab) -> u64 {
    let counts = lab.client.run(|| fs::read_to_string("/proc/thread-self/net/netstat")).unwrap();
    let mut lines = counts.lines().filter(|line| line.starts_with("TcpExt:")).map(str::split_whitespace);
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let (_, count) = names.zip(values).find(|(name, _)| *name == "TCPSynRetrans").unwrap();
    count.parse().unwrap()
}

fn connects(lab: &Lab, to: SocketAddr) -> Result<(), ErrorKind> {
    lab.try_connect(Tenant::Alpha, to, PATIENCE).map(drop).map_err(|error| error.kind())
}

/// The answer of `egret explain --live` for Alpha's client, which asks for an address.
fn explained(gateway: &Gateway, to: SocketAddr) -> Value {
    let family = if to.is_ipv4() { Family::V4 } else { Family::V6 };
    explained_to(gateway, family, &to.to_string())
}

/// The same for a name or an address.
fn explained_to(gateway: &Gateway, family: Family, to: &str) -> Value {
    let from = Tenant::Alpha.client(family).to_string();
    let output = gateway.egret(&["explain", "--live", "--json", "--from", &from, "--to", to]);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)))
}

fn wait_until_refused(lab: &Lab, to: SocketAddr) {
    wait_for("the connection to be refused", || match connects(lab, to) {
        Err(ErrorKind::ConnectionRefused) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

fn clients_fall_back_without_pool_family(family: Family) {
    for rules in [Rules::Iptables, Rules::Nftables] {
        let lab = Lab::new();
        let _web = Nginx::start(&lab);
        let gateway = lab.start_steered_gateway(&without(family), rules);
        clients_fall_back(&lab, family);
        // At once, in the kernel: not a flow, but counted.
        let before = repeated_syns(&lab);
        assert_eq!(connects(&lab, Host::Web.at(family, 443)), Err(ErrorKind::ConnectionRefused));
        assert_eq!(repeated_syns(&lab), before, "the first SYN was lost");
        let label = if family == Family::V4 { "ipv4" } else { "ipv6" };
        gateway.wait_for_metric("egret_refused_families_total", &[("family", label)], |refused| refused >= 2);
        assert_eq!(gateway.flows().iter().filter(|flow| flow["outcome"] == "no_source_address").count(), 0);
        gateway.expect_logged("connections are refused at once");
    }
}

fn clients_fall_back_without_route(family: Family) {
    let lab = Lab::new();
    let _web = Nginx::start(&lab);
    let gateway = lab.start_gateway(&Config::default());
    let (version, own) = match family {
        Family::V4 => ("-4", "198.51.100.1/24"),
        Family::V6 => ("-6", "2001:db8:51::1/64"),
    };
    lab.gateway.shell(&format!("ip addr del {own} dev s0; ip {version} route del default 2>&1 || :"));
    wait_until_refused(&lab, Host::Web.at(family, 80));
    clients_fall_back(&lab, family);
    let web = Host::Web.ip(family);
    let nodad = if family == Family::V4 { "" } else { "nodad" };
    lab.gateway.shell(&format!("ip addr add {own} dev s0 {nodad}; ip {version} route add default via {web}"));
    wait_until("connections to be accepted again", || connects(&lab, Host::Web.at(family, 80)).is_ok());
    let can = "connections are accepted";
    wait_until("the change to be logged", || gateway.stderr().contains(can));
}

fn withdrawn_addresses_refuse_only_their_family(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config { steering: "repair = \"off\"".into(), ..Config::default() });
    let (dead, alive) = (Server::raw(&lab, family, 7000), Server::raw(&lab, other(family), 7000));
    Flow::open(&lab, Tenant::Alpha, &dead).assert_alive();
    let network = if family == Family::V4 { "203.0.113.16/30" } else { "2001:db8:100::/120" };
    lab.gateway.ip(&format!("route del local {network} dev lo table local"));
    wait_until_refused(&lab, dead.address());
    Flow::open(&lab, Tenant::Alpha, &alive).assert_alive();
    // Another tenant has another pool.
    Flow::open(&lab, Tenant::Beta, &dead).assert_alive();
    lab.gateway.ip(&format!("route add local {network} dev lo table local"));
    wait_until("connections to be accepted again", || connects(&lab, dead.address()).is_ok());
    drop(gateway);
    // Without the gateway its refusals end.
    assert_eq!(
        lab.try_connect(Tenant::Alpha, dead.address(), Duration::from_millis(300))
            .map(drop)
            .unwrap_err()
            .kind(),
        ErrorKind::TimedOut
    );
}

/// There is no default route, but one to the server's own network.
fn partial_route_is_not_refused(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Rollout::config(&lab, ""));
    let server = Server::raw(&lab, family, 7000);
    let (version, far) = match family {
        Family::V4 => ("-4", "192.0.2.9:443"),
        Family::V6 => ("-6", "[2001:db8:99::9]:443"),
    };
    lab.gateway.shell(&format!("ip {version} route del default"));
    wait_until_refused(&lab, far.parse().unwrap());
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
    gateway.expect_logged("route out");
    wait_until("the refusal to be explained", || {
        explained(&gateway, far.parse().unwrap())["refused_family"] == "no_route"
    });
    let near = explained(&gateway, server.address());
    assert_eq!((&near["refused_family"], &near["allowed"]), (&Value::Null, &true.into()), "{near:#}");
}

/// The pool's addresses go by a routing table, or a rule, that has no way out, and all others by the default route.
fn pool_without_route_is_refused(family: Family) {
    let lab = Lab::new();
    let (version, pool) = match family {
        Family::V4 => ("-4", "203.0.113.16/30"),
        Family::V6 => ("-6", "2001:db8:100::/120"),
    };
    let gateway = lab.start_gateway(&Rollout::config(&lab, ""));
    let server = Server::raw(&lab, family, 7000);
    // A port without a server: trials here leave no connection that a flow's test could meet.
    let elsewhere = Host::Raw.at(family, 7001);
    lab.gateway.shell(&format!("ip {version} route add unreachable default table 77"));
    for (done, action) in ["lookup 77", "unreachable", "blackhole"].into_iter().enumerate() {
        Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
        lab.gateway.shell(&format!("ip {version} rule add pref 32000 from {pool} {action}"));
        wait_until_refused(&lab, elsewhere);
        // Another tenant has another pool.
        Flow::open(&lab, Tenant::Beta, &server).assert_alive();
        wait_until("the missing route to be logged", || {
            gateway.stderr().matches("keeps the pool's addresses from the").count() == done + 1
        });
        let said = text(&gateway.egret(&["doctor", "--no-packets"]));
        assert!(said.contains("a rule keeps pool alpha from the"), "{said}");
        wait_until("the refusal to be explained", || {
            let told = explained(&gateway, elsewhere);
            told["refused_family"] == "pool_ruled_out"
                && told["allowed"] == false
                && told["outcome"].is_null()
        });
        lab.gateway.shell(&format!("ip {version} rule del pref 32000"));
        wait_until("connections to be accepted again", || connects(&lab, elsewhere).is_ok());
    }
}

/// A rule keeps half of the pool's addresses from every route, or all of them from all routes but one.
fn pool_with_some_routes_is_not_refused(family: Family) {
    let lab = Lab::new();
    let (version, pool, halves, near, beta) = match family {
        Family::V4 => (
            "-4",
            "203.0.113.16/30",
            ["203.0.113.16/31", "203.0.113.18/31"],
            "198.51.100.0/24",
            "203.0.113.32/30",
        ),
        Family::V6 => (
            "-6",
            "2001:db8:100::/120",
            ["2001:db8:100::/121", "2001:db8:100::80/121"],
            "2001:db8:51::/64",
            "2001:db8:200::/120",
        ),
    };
    let gateway = lab.start_gateway(&Config::default());
    let elsewhere = Host::Raw.at(family, 7001);
    let server = Server::raw(&lab, family, 7000);
    let beta_connects =
        || lab.try_connect(Tenant::Beta, elsewhere, PATIENCE).map(drop).map_err(|error| error.kind());
    lab.gateway.shell(&format!(
        "ip {version} route add unreachable default table 77; ip {version} route add {near} dev s0 table 77"
    ));
    for (from, action) in [(halves[0], "unreachable"), (halves[1], "unreachable"), (pool, "lookup 77")] {
        // The other tenant's refusal tells that the gateway has looked.
        lab.gateway.shell(&format!(
            "ip {version} rule add pref 32000 from {from} {action}; ip {version} rule add pref 32001 from {beta} unreachable"
        ));
        wait_until("the other pool to be refused", || beta_connects() == Err(ErrorKind::ConnectionRefused));
        // A flow from an address without a route is reset after the handshake.
        assert_ne!(connects(&lab, elsewhere), Err(ErrorKind::ConnectionRefused), "{from} {action}");
        let said = text(&gateway.egret(&["doctor", "--no-packets"]));
        if from == pool {
            Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
            assert!(said.contains("a rule leads pool alpha to some"), "{said}");
        } else {
            assert!(said.contains("addresses of pool alpha that were looked at"), "{said}");
        }
        lab.gateway.shell(&format!("ip {version} rule del pref 32000; ip {version} rule del pref 32001"));
        wait_until("connections to be accepted again", || beta_connects().is_ok());
    }
    assert!(!gateway.stderr().contains("pool=alpha"), "{}", gateway.stderr());
}

/// Nothing leads out but a table of the pool's own, to the servers' network alone.
fn pool_with_own_table_is_not_refused(family: Family) {
    let (version, pool, near) = match family {
        Family::V4 => ("-4", "203.0.113.16/30", "198.51.100.0/24"),
        Family::V6 => ("-6", "2001:db8:100::/120", "2001:db8:51::/64"),
    };
    let lab = Lab::new();
    let _gateway = lab.start_gateway(&Config::default());
    let server = Server::raw(&lab, family, 7000);
    lab.gateway.shell(&format!(
        "ip {version} route add {near} dev s0 table 77; ip {version} rule add pref 32000 from {pool} lookup 77; \
         ip {version} route del default; ip {version} route del {near} dev s0"
    ));
    // The other tenant's refusal tells that the gateway has looked.
    let beta = || lab.try_connect(Tenant::Beta, server.address(), PATIENCE).map_err(|error| error.kind());
    wait_until("the other pool to be refused", || matches!(beta(), Err(ErrorKind::ConnectionRefused)));
    Flow::open(&lab, Tenant::Alpha, &server).assert_alive();
}

fn own_addresses_and_other_ports_stay_open(family: Family) {
    let lab = Lab::new();
    lab.gateway.set_forwarding(true);
    let _gateway =
        lab.start_gateway(&Config { steering_ports: "[443, \"8000-8100\"]".into(), ..without(family) });
    for port in [443, 8000, 8050, 8100] {
        wait_until_refused(&lab, Host::Elsewhere.at(family, port));
    }
    let own = lab.gateway.run(|| Server::bind(SocketAddr::new(family.gateway(), 443)));
    assert_eq!(connects(&lab, own.address()), Ok(()));
    for port in [442, 444, 7999, 8101] {
        let other = lab.listen(Host::Elsewhere, family, port);
        assert_eq!(connects(&lab, other.address()), Ok(()), "port {port} is not steered");
    }
}

fn reload_adding_the_family_ends_refusal() {
    let lab = Lab::new();
    let server = Server::raw(&lab, Family::V6, 7000);
    let gateway = lab.start_gateway(&without(Family::V6));
    assert_eq!(connects(&lab, server.address()), Err(ErrorKind::ConnectionRefused));
    gateway.reload(&Config::default().render(&gateway.flow_log()));
    lab.gateway.ip("route add local 2001:db8:100::/120 dev lo table local");
    wait_until("connections to be accepted", || connects(&lab, server.address()).is_ok());
    assert!(gateway.metric("egret_refused_families_total", &[("family", "ipv6")]) >= 1);
}

fn wholly_unavailable_pool_still_answers() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&Config {
        gateway: format!("admin = \"unix:{}\"", lab.control_socket()),
        steering: "repair = \"off\"".into(),
        ..Config::default()
    });
    lab.gateway.ip("route del local 203.0.113.16/30 dev lo table local\n\
                    route del local 2001:db8:100::/120 dev lo table local");
    let server = Server::raw(&lab, Family::V4, 7000);
    let available = [("pool", "alpha"), ("state", "available")];
    gateway.wait_for_metric("egret_pool_source_state", &available, |available| available == 0);
    wait_until("the connection to be accepted", || connects(&lab, server.address()).is_ok());
    wait_for("the refusal to be recorded", || match lab.dial(Tenant::Alpha, server.address()) {
        Err(client) => Ok(gateway.expect_outcome(client, "no_source_address")),
        Ok(_) => Err("the connection was permitted"),
    });
    assert_only(&gateway, "no_source_address");
    let report = explained_to(&gateway, Family::V4, "allowed.example.org");
    assert_eq!(report["outcome"]["name"], "no_source_address", "{report:#}");
    wait_for("readiness to mention the pool", || {
        let (status, said) = gateway.get("/readyz").map_err(|error| error.to_string())?;
        let is_told = status == 503 && said.contains("pool alpha has no way out");
        is_told.then_some(()).ok_or(said)
    });
}

fn assert_only(gateway: &Gateway<'_>, outcome: &str) {
    for flow in gateway.flows() {
        assert_eq!(flow["outcome"], outcome, "{flow:#}");
    }
}

fn check_and_doctor_name_refused_family() {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&without(Family::V6));
    let check = gateway.egret(&["check"]);
    let said = text(&check);
    assert!(check.status.success() && said.contains("no IPv6 address"), "{said}");
    let doctor = gateway.egret(&["doctor"]);
    let said = text(&doctor);
    assert!(!doctor.status.success() && said.contains("pool alpha has no IPv6 address"), "{said}");
}
