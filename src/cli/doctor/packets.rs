//! Real packets through the machine's real rules: from an address of each tenant's network to the gateway, and from pool
//! addresses to a server outside.
//!
//! Clients and servers are hosts of doctor's own ([`probe`]), so nothing leaves the machine but a look for neighbours.
//! What gets lost is sent again while the packet filter is traced, and the finding names the hook that took it.

mod cause;
mod command;
mod counters;
mod cure;
mod exchange;
mod icmp;
mod legs;
mod namespace;
mod owner;
mod path;
mod probe;
mod question;
mod request;
mod spot;
mod stand_in;
mod trace;

pub(super) use question::{Question, ask};

use super::Doctor;
use crate::cli::findings::{Finding, Level};
use crate::interface::Interface;
use crate::steering::Params;
use command::output;
use cure::Leg;
use legs::{ClientLeg, PoolLeg};
use namespace::Namespace;
use std::net::IpAddr;

/// Tenants, and addresses of pools, that are tried; the packet filter rarely tells more of them apart.
const TENANTS: usize = 12;
const POOL_ADDRESSES: usize = 6;

/// One finding for each tenant and family, and for each family of the pools.
pub(super) fn findings(doctor: &Doctor) -> Vec<Finding> {
    if let Some(finding) = impossible() {
        return vec![finding];
    }
    let params = &doctor.steering;
    let steered = spot::steered(params);
    let mut found = Vec::new();
    if !cause::has_listener(params.listen_port) {
        found.push(no_listener(params));
    } else if !steered.is_empty() {
        // What loses one tenant's packets mostly loses those of the others.
        let mut failed = [false, false];
        for tenant in doctor.tenants.iter().take(TENANTS) {
            for v4 in families(tenant.sources.iter().map(ipnet::IpNet::addr)) {
                let failed = &mut failed[usize::from(v4)];
                if *failed {
                    found.push(not_tried(&tenant.name, v4));
                    continue;
                }
                let finding = ClientLeg { params, tenant, v4, steered: &steered }.try_it();
                *failed = finding.level == Level::Fail;
                found.push(finding);
            }
        }
        if doctor.tenants.len() > TENANTS {
            let rest = doctor.tenants.len() - TENANTS;
            found.push(Finding::ok(
                "packets in",
                format!("{rest} more tenants not tried; see egret doctor --packet --from CLIENT --to DEST"),
            ));
        }
    }
    for v4 in families(params.pools.iter().map(|pool| pool.network.addr())) {
        found.push(PoolLeg { params, v4 }.try_it());
    }
    found
}

/// Of the two, those that there are addresses of.
fn families(addresses: impl Iterator<Item = IpAddr> + Clone) -> impl Iterator<Item = bool> {
    let there = move |v4: &bool| addresses.clone().any(|address| address.is_ipv4() == *v4);
    [true, false].into_iter().filter(there)
}

/// Why nothing can be sent.
fn impossible() -> Option<Finding> {
    const CHECK: &str = "packets";
    let why = "only packets show whether other programs' rules and settings let intercepted traffic pass";
    if let Err(error) = Namespace::new() {
        let found = format!("not sent, in neither direction: a network namespace needs root ({error})");
        return Some(Finding::warn(CHECK, found, why, "sudo egret doctor"));
    }
    let missing = ["ip -V", "tc -V", "ss -V"].into_iter().find_map(|command| output(command).err())?;
    Some(Finding::warn(CHECK, format!("not sent: {missing}"), why, "apt install iproute2"))
}

fn not_tried(tenant: &str, v4: bool) -> Finding {
    let family = family_name(v4);
    let why = "what loses one tenant's packets mostly loses those of the others";
    Finding::warn(
        "packets in",
        format!("{tenant}, {family}: not tried"),
        why,
        format!("cure what fails for {family}, then egret doctor"),
    )
}

fn no_listener(params: &Params) -> Finding {
    Finding::fail(
        "packets in",
        format!("not sent: nothing in this network namespace listens on port {}", params.listen_port),
        "every intercepted connection is dropped",
        "systemctl start egret; journalctl -u egret",
    )
}

fn family_name(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

fn names(interfaces: &[Interface]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Leg {
    /// Heads the finding.
    fn check(self) -> &'static str {
        match self {
            Self::Client => "packets in",
            Self::Pool => "packets out",
        }
    }

    /// Effect of lost packets of this leg.
    fn why(self) -> &'static str {
        match self {
            Self::Client => "every connection of such clients hangs",
            Self::Pool => "every connection that Egret makes for its clients times out",
        }
    }
}
