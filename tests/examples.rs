//! The examples are configurations that load.

use egret::config::{self, FlowLogTarget, LoadedConfig, SteeringPorts};
use std::path::Path;

fn load(name: &str) -> LoadedConfig {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    config::load(&path).unwrap_or_else(|report| panic!("{name} is refused:\n{report}"))
}

#[test]
fn minimal_example_loads_without_a_warning() {
    let LoadedConfig { config, warnings, .. } = load("examples/minimal.toml");
    assert_eq!(warnings, []);
    assert_eq!(config.tenants.len(), 1);
    assert_eq!(config.flow_log.target, FlowLogTarget::Stdout);
    let SteeringPorts::Listed(ports) = &config.steering.ports else { panic!("ports are listed") };
    assert_eq!(ports.iter().map(ToString::to_string).collect::<Vec<_>>(), ["80", "443"]);
    assert_eq!(config.reserved_ports(), [15001, 9915]);
}

#[test]
fn multi_tenant_example_loads_without_a_warning() {
    let LoadedConfig { config, warnings, .. } = load("examples/multi-tenant/egret.toml");
    assert_eq!(warnings, []);
    let tenants: Vec<_> = config.tenants.iter().map(|tenant| &*tenant.name).collect();
    assert_eq!(tenants, ["payments", "web"], "in the order of their files");
    let pools: Vec<_> = config.pools.iter().map(|pool| &*pool.name).collect();
    assert_eq!(pools, ["shared", "payments"]);
    let payments = &config.tenants[0];
    assert_eq!(config.limits["payments"].flows, Some(20_000));
    let partners = &payments.rules[0];
    assert_eq!((&*partners.label, partners.hosts.len()), ("partners", 4));
    assert!(payments.rules[2].uninspected);
}

#[test]
fn installed_template_loads_without_a_warning() {
    let LoadedConfig { config, warnings, .. } = load("deploy/egret.toml");
    assert_eq!(warnings, []);
    assert_eq!(config.flow_log.target, FlowLogTarget::File("/var/log/egret/flows.jsonl".into()));
}
