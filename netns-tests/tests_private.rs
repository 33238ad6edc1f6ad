//! Rules by name do not reach the operator's own hosts, even with public addresses.

use crate::config::Config;
use crate::gateway::Gateway;
use crate::lab::{Family, Host, Lab, Tenant};
use crate::servers::Server;
use crate::verified::{denied, reach};
use crate::wait::wait_for;
use serde_json::Value;
use std::net::{IpAddr, SocketAddr};

crate::trials! {
    both families:
        names_never_resolve_to_tenants,
        names_never_resolve_to_own_links,
        names_never_resolve_to_listed_networks;
    once:
}

const NAME: &str = "allowed.example.org";

/// A host behind the server's router: in the family's first or second network of its own.
fn host(family: Family, second: bool) -> IpAddr {
    let text = match (family, second) {
        (Family::V4, false) => "192.0.2.5",
        (Family::V4, true) => "192.0.2.133",
        (Family::V6, false) => "2001:db8:b::5",
        (Family::V6, true) => "2001:db8:c::5",
    };
    text.parse().unwrap()
}

/// Creates the host, and the gateway's route to its network by a router.
fn listen(lab: &Lab, family: Family, second: bool) -> Server {
    let address = host(family, second);
    lab.server.ip(&format!("addr add {address} dev lo"));
    let (network, router) = (network(family, second), Host::Web.ip(family));
    lab.gateway.ip(&format!("route add {network} via {router}"));
    lab.server.run(|| Server::bind(SocketAddr::new(address, 443)))
}

fn network(family: Family, second: bool) -> &'static str {
    match (family, second) {
        (Family::V4, false) => "192.0.2.0/25",
        (Family::V4, true) => "192.0.2.128/25",
        (Family::V6, false) => "2001:db8:b::/64",
        (Family::V6, true) => "2001:db8:c::/64",
    }
}

fn config(lab: &Lab) -> Config {
    Config { gateway: format!("admin = \"unix:{}\"", lab.control_socket()), ..Config::default() }
}

/// The answer of `egret explain --live` for the address.
fn explained(gateway: &Gateway, family: Family, to: SocketAddr) -> Value {
    let (from, address) = (Tenant::Alpha.client(family).to_string(), to.ip().to_string());
    let arguments = ["explain", "--live", "--json", "--from", &from, "--to", NAME, "--address", &address];
    serde_json::from_slice(&gateway.egret(&arguments).stdout).unwrap()
}

fn names_never_resolve_to_tenants(family: Family) {
    let lab = Lab::new();
    let server = listen(&lab, family, false);
    let gamma = format!(
        "[[tenant]]\nname = \"gamma\"\nsources = [\"{}\", \"0.0.0.0/0\", \"::/0\"]\npool = \"alpha\"\n",
        network(family, false)
    );
    let gateway = lab.start_gateway(&Config { more: gamma, ..config(&lab) });
    let flow = denied(&lab, &gateway, server.address(), NAME, "destination_private");
    assert_eq!(flow["rule"], "alpha-names", "{flow:#}");
    server.assert_untouched();
    let told = explained(&gateway, family, server.address());
    assert!(told["private"].as_str().unwrap().contains("source network of tenant gamma"), "{told:#}");
    // A tenant with every address as a source makes no address private.
    let public = lab.listen(Host::Named, family, 443);
    reach(&lab, &gateway, public.address(), NAME, &public);
}

fn names_never_resolve_to_own_links(family: Family) {
    let lab = Lab::new();
    let server = listen(&lab, family, true);
    let gateway = lab.start_gateway(&config(&lab));
    reach(&lab, &gateway, server.address(), NAME, &server);
    // The gateway itself joins that network.
    let network = network(family, true);
    lab.gateway.ip(&format!("route del {network}\nroute add {network} dev s0"));
    lab.server.ip(&format!("addr add {} dev s0", host(family, true)));
    wait_for("the gateway to notice", || {
        let told = explained(&gateway, family, server.address());
        if told["private"].as_str().is_some_and(|why| why.contains("own links")) { Ok(()) } else { Err(told) }
    });
    denied(&lab, &gateway, server.address(), NAME, "destination_private");
    // The network of the default route's router is the provider's.
    let public = lab.listen(Host::Named, family, 443);
    reach(&lab, &gateway, public.address(), NAME, &public);
}

fn names_never_resolve_to_listed_networks(family: Family) {
    let lab = Lab::new();
    let server = listen(&lab, family, false);
    let listed = format!("private_networks = [\"{}\"]", network(family, false));
    let gateway = lab.start_gateway(&Config { policy: listed, ..config(&lab) });
    denied(&lab, &gateway, server.address(), NAME, "destination_private");
    server.assert_untouched();
    let told = explained(&gateway, family, server.address());
    assert!(told["private"].as_str().unwrap().contains("private_networks"), "{told:#}");
    let text = gateway.egret(&[
        "explain",
        "--live",
        "--from",
        &Tenant::Alpha.client(family).to_string(),
        "--to",
        NAME,
        "--address",
        &server.address().ip().to_string(),
    ]);
    let text = crate::namespace::text(&text);
    assert!(text.contains("counts as private: it is in"), "{text}");
}
