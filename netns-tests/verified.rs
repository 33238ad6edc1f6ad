//! A name whose addresses are verified by a rule, and flows that request it.

use crate::clients::expect_tls_denial;
use crate::config::Config;
use crate::gateway::Gateway;
use crate::hello::Hello;
use crate::lab::{Lab, Tenant};
use crate::servers::Server;
use crate::traffic::expect_delivery;
use serde_json::Value;
use std::net::SocketAddr;

pub const NAME: &str = "verified.example.org";

/// Alpha's rule for the name, with this `destination`.
pub fn rule(destination: &str) -> String {
    format!(
        "  [[tenant.allow]]\n  name = \"by-name\"\n  hosts = [\"{NAME}\", \"*.cdn.example.org\"]\n  \
         destination = \"{destination}\"\n"
    )
}

/// A configuration with the tests' DNS server.
pub fn config(destination: &str) -> Config {
    with_rules(&rule(destination), "servers = [\"198.51.100.10\"]")
}

pub fn with_rules(rules: &str, resolver: &str) -> Config {
    Config { alpha_rules: rules.into(), more: format!("[resolver]\n{resolver}"), ..Config::default() }
}

/// Alpha dials `to` and requests the name; the flow must reach the server. Returns its record.
pub fn reach(lab: &Lab, gateway: &Gateway, to: SocketAddr, name: &str, server: &Server) -> Value {
    let hello = Hello::to(name).record();
    let client = lab.send(Tenant::Alpha, to, &hello);
    let local = client.local_addr().unwrap();
    expect_delivery(client, server.accept(), &hello);
    gateway.expect_outcome(local, "closed")
}

/// Like [`reach`], but it must be denied. Returns its record.
pub fn denied(lab: &Lab, gateway: &Gateway, to: SocketAddr, name: &str, outcome: &str) -> Value {
    let client = lab.send(Tenant::Alpha, to, &Hello::to(name).record());
    expect_tls_denial(gateway, client, outcome, name)
}
