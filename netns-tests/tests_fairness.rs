//! Tenants that share a pool: a noisy one reaches its own ceiling, and the floors of others are kept. Tenants whose names
//! are looked up: one whose lookups fail, or whose servers are silent, delays no other.

use crate::clients::{INTERNAL_ERROR, expect_alert, expect_http_denial};
use crate::config::Config;
use crate::dns::Dns;
use crate::flows::{End, Flow};
use crate::gateway::{Files, Gateway, Rules};
use crate::hello::Hello;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::rollout::Rollout;
use crate::servers::Server;
use crate::tests_reload::reload;
use crate::tests_revoke::{delivered, reload_to};
use crate::verified::{self, NAME};
use crate::wait::wait_until;
use serde_json::Value;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};

crate::trials! {
    both families:
        noisy_tenant_hits_only_its_ceiling,
        uncapped_tenant_leaves_others_their_floors,
        reload_changes_shares_under_live_flows,
        ceiling_is_answered_in_clients_protocol;
    once:
        unanswered_names_reset_no_neighbours_flows,
        many_addresses_leave_neighbours_descriptors
}

const RULE: &str = "[[tenant.allow]]\nname = \"raw\"\ncidrs = [\"198.51.100.20/32\", \"2001:db8:51::14/128\"]\n\
                    inspect = \"none\"\n";

/// Sixteen ports towards each destination; alpha, gamma and the stranger share them under these terms.
fn sharing(alpha: &str, gamma: &str, stranger: &str) -> Config {
    let tenant = |name, net, terms| {
        format!(
            "[[tenant]]\nname = \"{name}\"\nsources = [\"10.0.{net}.0/24\", \"fd00:{net}::/64\"]\n\
             pool = \"alpha\"\n{terms}\n{RULE}"
        )
    };
    Config {
        alpha_addresses: "[\"203.0.113.16/31\", \"2001:db8:100::/127\"]".into(),
        alpha_pool: "ports = \"40000-40007\"".into(),
        alpha_tenant: alpha.into(),
        more: tenant("gamma", 3, gamma) + &tenant("delta", 9, stranger),
        ..Config::default()
    }
}

/// The tenant of the stranger's clients here.
const DELTA: Tenant = Tenant::Stranger;

/// Opens `count` flows; none may be refused.
fn open(lab: &Lab, tenant: Tenant, server: &Server, count: usize) -> Vec<Flow> {
    (0..count).map(|_| Flow::open(lab, tenant, server)).collect()
}

fn refused(lab: &Lab, gateway: &Gateway<'_>, tenant: Tenant, server: &Server, outcome: &str) -> Value {
    let client = lab.expect_reset(tenant, server.address(), b"");
    let flow = gateway.expect_outcome(client, outcome);
    assert!(flow["source"].is_null(), "{flow:#}");
    assert_eq!(flow["pool"], "alpha", "{flow:#}");
    server.assert_untouched();
    flow
}

/// Refused because of the others' floors, or by its own ceiling.
fn refused_by(lab: &Lab, gateway: &Gateway<'_>, tenant: Tenant, server: &Server, key: &str) {
    let flow = refused(lab, gateway, tenant, server, "tenant_port_ceiling");
    assert!(flow["detail"].as_str().unwrap().contains(key), "{flow:#}");
}

fn explained_by(gateway: &Gateway<'_>, client: IpAddr, server: &Server, why: &str) {
    let (client, to) = (client.to_string(), server.address().to_string());
    let output = gateway.egret(&["explain", "--live", "--json", "--from", &client, "--to", &to]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&told["allowed"], &told["outcome"]["name"]),
        (&false.into(), &"tenant_port_ceiling".into()),
        "{told:#}"
    );
    assert!(told["outcome"]["meaning"].as_str().unwrap().contains(why), "{told:#}");
}

fn noisy_tenant_hits_only_its_ceiling(family: Family) {
    let lab = Lab::new();
    let config = sharing("ports_ceiling = 9", "ports_floor = 4", "ports_floor = 2\nports_ceiling = 3");
    let admin = format!("admin = \"unix:{}\"", lab.control_socket());
    let gateway = lab.start_gateway(&Config { gateway: admin, ..config });
    let server = Server::raw(&lab, family, 7000);
    // The noisy one gets its ceiling and no more, long before any other is refused.
    let mut noisy = open(&lab, Tenant::Alpha, &server, 9);
    for _ in 0..20 {
        refused_by(&lab, &gateway, Tenant::Alpha, &server, "ports_ceiling");
    }
    let failures = |tenant| {
        gateway.metric("egret_port_allocation_failures_total", &[("pool", "alpha"), ("tenant", tenant)])
    };
    assert_eq!(["alpha", "gamma", "delta"].map(failures), [20, 0, 0]);
    // The neighbours have their floors and the rest: 16 - 9 - 2 for gamma, then 2 for delta.
    let gamma = open(&lab, Tenant::Gamma, &server, 5);
    refused_by(&lab, &gateway, Tenant::Gamma, &server, "ports_floor");
    explained_by(&gateway, Tenant::Alpha.client(family), &server, "is at its ports_ceiling");
    explained_by(&gateway, Tenant::Gamma.client(family), &server, "ports_floor of other tenants");
    let delta = open(&lab, DELTA, &server, 2);
    refused(&lab, &gateway, DELTA, &server, "ports_exhausted");
    refused(&lab, &gateway, Tenant::Gamma, &server, "ports_exhausted");
    refused(&lab, &gateway, Tenant::Alpha, &server, "tenant_port_ceiling");
    // A port that is returned goes to a tenant with room in its floor or ceiling.
    for how in End::ALL {
        noisy.remove(0).end(how);
        noisy.push(Flow::open_soon(&lab, Tenant::Alpha, &server));
        refused(&lab, &gateway, Tenant::Alpha, &server, "tenant_port_ceiling");
    }
    for flow in noisy.iter().chain(&gamma).chain(&delta) {
        flow.assert_alive();
    }
    // Towards another destination no port is used yet.
    let other = Server::raw(&lab, family, 7001);
    let elsewhere = open(&lab, Tenant::Alpha, &other, 9);
    refused(&lab, &gateway, Tenant::Alpha, &other, "tenant_port_ceiling");
    // Tenants of other pools are not affected.
    let _beta = open(&lab, Tenant::Beta, &server, 20);
    assert_eq!(gateway.metric("egret_port_collisions_total", &[]), 0);
    drop((noisy, gamma, delta, elsewhere));
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 0);
}

fn uncapped_tenant_leaves_others_their_floors(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&sharing("", "ports_floor = 4", "ports_floor = 2"));
    let server = Server::raw(&lab, family, 7000);
    let mut noisy = open(&lab, Tenant::Alpha, &server, 10);
    refused_by(&lab, &gateway, Tenant::Alpha, &server, "ports_floor");
    let mut gamma = open(&lab, Tenant::Gamma, &server, 4);
    refused(&lab, &gateway, Tenant::Gamma, &server, "tenant_port_ceiling");
    let delta = open(&lab, DELTA, &server, 2);
    for tenant in [Tenant::Alpha, Tenant::Gamma, DELTA] {
        refused(&lab, &gateway, tenant, &server, "ports_exhausted");
    }
    // A port within gamma's floor is gamma's again; one of alpha's goes to the first to ask.
    gamma.remove(0).end(End::ClientFirst);
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 15);
    refused(&lab, &gateway, Tenant::Alpha, &server, "tenant_port_ceiling");
    gamma.push(Flow::open_soon(&lab, Tenant::Gamma, &server));
    noisy.remove(0).end(End::ServerReset);
    gamma.push(Flow::open_soon(&lab, Tenant::Gamma, &server));
    refused(&lab, &gateway, Tenant::Alpha, &server, "ports_exhausted");
    for flow in noisy.iter().chain(&gamma).chain(&delta) {
        flow.assert_alive();
    }
}

fn reload_changes_shares_under_live_flows(family: Family) {
    let lab = Lab::new();
    let gateway = lab.start_gateway(&sharing("ports_ceiling = 16", "", ""));
    let server = Server::raw(&lab, family, 7000);
    // Without floors the first to ask gets all.
    let mut noisy = open(&lab, Tenant::Alpha, &server, 16);
    refused(&lab, &gateway, Tenant::Gamma, &server, "ports_exhausted");
    reload(&gateway, &sharing("ports_ceiling = 12", "ports_floor = 4", ""));
    for flow in &noisy {
        flow.assert_alive();
    }
    refused(&lab, &gateway, Tenant::Alpha, &server, "tenant_port_ceiling");
    // Earlier leases count under the new terms: of four that end, alpha gets none again.
    for flow in noisy.drain(..4) {
        flow.end(End::ServerFirst);
    }
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 12);
    refused(&lab, &gateway, Tenant::Alpha, &server, "tenant_port_ceiling");
    refused(&lab, &gateway, DELTA, &server, "tenant_port_ceiling");
    let gamma = open(&lab, Tenant::Gamma, &server, 4);
    reload(&gateway, &sharing("", "", ""));
    refused(&lab, &gateway, Tenant::Alpha, &server, "ports_exhausted");
    for (flow, how) in gamma.into_iter().zip(End::ALL) {
        flow.end(how);
    }
    gateway.wait_for_metric("egret_pool_ports", &[("pool", "alpha")], |busy| busy == 12);
    let _again = open(&lab, DELTA, &server, 4);
}

fn ceiling_is_answered_in_clients_protocol(family: Family) {
    let lab = Lab::new();
    let gateway =
        lab.start_gateway(&Config { alpha_tenant: "ports_ceiling = 1".into(), ..Config::default() });
    let hello = Hello::to("allowed.example.org").record();
    let request = b"GET / HTTP/1.1\r\nHost: allowed.example.org\r\n\r\n".to_vec();
    for (port, bytes) in [(443, hello), (80, request)] {
        let server = lab.listen(Host::Named, family, port);
        let open = || {
            let mut client = lab.connect(Tenant::Alpha, server.address());
            client.write_all(&bytes).unwrap();
            client
        };
        let _live = (open(), server.accept());
        let refused = open();
        let local = refused.local_addr().unwrap();
        if port == 443 {
            expect_alert(&refused, INTERNAL_ERROR);
        } else {
            expect_http_denial(&refused, 503, &["alpha", "tenant_port_ceiling", "ports_ceiling"]);
        }
        drop(refused);
        gateway.expect_outcome(local, "tenant_port_ceiling");
        server.assert_untouched();
    }
}

/// Names of alpha's that no server answers for, and one of gamma's. Rules ask about the addresses of both as `destination`
/// says; the number makes each file a change.
fn asking(lab: &Lab, destination: &str, number: usize) -> Config {
    let rule = |hosts| format!("[[tenant.allow]]\nhosts = [\"{hosts}\"]\ndestination = \"{destination}\"\n");
    let gamma = "[[tenant]]\nname = \"gamma\"\nsources = [\"10.0.3.0/24\"]\npool = \"beta\"\n";
    Config {
        more: format!(
            "{gamma}{}[[tenant.deny]]\nhosts = [\"number{number}.example.org\"]\n\
             [resolver]\nservers = [\"198.51.100.10\"]",
            rule(NAME)
        ),
        ..Rollout::config(lab, &rule("*.silent.example.org"))
    }
}

/// Many more than are checked at once.
const MADE_UP: usize = 300;

fn unanswered_names_reset_no_neighbours_flows() {
    let lab = Lab::new();
    let server = lab.listen(Host::Named, Family::V4, 443);
    let unanswered = "--server=/silent.example.org/198.51.100.41";
    let _dns = Dns::start_with(&lab, Host::Web, &[(NAME, server.address().ip())], &[unanswered]);
    let gateway = lab.start_gateway(&asking(&lab, "original", 0));
    let open = |tenant, name: &str| {
        delivered(lab.send(tenant, server.address(), &Hello::to(name).record()), &server, name)
    };
    let hostile: Vec<_> =
        (0..MADE_UP).map(|n| open(Tenant::Alpha, &format!("n{n}.silent.example.org"))).collect();
    let good = open(Tenant::Gamma, NAME);
    let mut numbers = 1..;
    let mut unproved = || {
        let answer = reload_to(&gateway, &asking(&lab, "verify", numbers.next().unwrap()));
        usize::try_from(answer["unproved"].as_u64().unwrap()).unwrap()
    };
    assert_eq!(unproved(), MADE_UP + 1);
    wait_until("the neighbour's flow to be proved", || unproved() == MADE_UP);
    good.assert_alive();
    drop(hostile);
}

/// Sockets beside each flow's own that one tenant has of 1200 descriptors: of a thirty-second of what is left for flows all
/// but an eighth.
const BESIDE: u64 = 23;

fn many_addresses_leave_neighbours_descriptors() {
    let lab = Lab::new();
    // Eight addresses that packets are dropped to.
    lab.server.ip("route add blackhole 192.0.2.0/24");
    let silent: Vec<_> = (1..=8).map(|n| (NAME, Ipv4Addr::new(192, 0, 2, n).into())).collect();
    let _dns = Dns::start(&lab, Host::Web, &silent);
    let files = Files::new(&Config {
        gateway: "connect_timeout = \"60s\"".into(),
        alpha_tenant: "limits = { flows = 100 }".into(),
        ..verified::config("resolve")
    });
    lab.must_steer("up", &files.config(), Rules::Iptables);
    let gateway = Gateway::start_with_descriptors(&lab, files, 1200);
    let hello = Hello::to(NAME).record();
    let hostile: Vec<_> =
        (0..100).map(|_| lab.send(Tenant::Alpha, Host::Elsewhere.at(Family::V4, 443), &hello)).collect();
    let ports = [("pool", "alpha"), ("state", "live")];
    gateway.wait_for_metric("egret_pool_ports", &ports, |live| live >= 100 + BESIDE);
    let server = Server::raw(&lab, Family::V4, 7000);
    for flow in open(&lab, Tenant::Beta, &server, 40) {
        flow.assert_alive();
    }
    assert_eq!(gateway.metric("egret_pool_ports", &ports), 100 + BESIDE);
    assert_eq!(gateway.metric("egret_accept_errors_total", &[]), 0);
    drop(hostile);
}
