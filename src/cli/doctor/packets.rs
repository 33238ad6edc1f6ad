//! Real packets through the machine's real rules: from an address of each tenant's network to the gateway, and from pool
//! addresses to a server outside.
//!
//! Clients and servers are hosts of doctor's own ([`probe`]), so nothing leaves the machine but a look for neighbours.
//! What gets lost is sent again while the packet filter is traced, and the finding names the hook that took it.

mod answer;
mod asked_flow;
mod caller;
mod cause;
mod client_leg;
mod counters;
mod cure;
mod evidence;
mod exchange;
mod fate;
mod icmp;
mod kernel;
mod legs;
mod namespace;
mod next_hop;
mod outside;
mod owner;
mod path;
mod pool_leg;
mod ports;
mod probe;
mod question;
mod request;
mod routes;
mod set_up;
mod shown;
mod spot;
mod stand_in;
mod trace;
mod unserved;
mod verdict;
mod way_out;

pub(super) use path::{NetworkDevice, devices};
pub(super) use question::{ProbeQuestion, ask};
pub(in crate::cli) use request::PROBE_NAME;

use super::listeners::has_listener;
use super::{Doctor, TenantClients, process};
use crate::cli::findings::{CheckFinding, FindingLevel};
use crate::cli::mend::Mend;
use crate::cli::tool::output;
use crate::steering::SteeringParams;
use client_leg::{ClientLeg, Tried};
use cure::Leg;
use exchange::User;
use ipnet::IpNet;
use namespace::Namespace;
use outside::Outside;
use pool_leg::PoolLeg;
use std::net::IpAddr;
use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

/// Tenants that are tried; the packet filter rarely tells more of them apart.
const TENANTS: usize = 12;

/// One finding for each tenant and family, and for each family of the pools. They are tried side by side.
pub(super) fn findings(doctor: &Doctor) -> Vec<CheckFinding> {
    if let Some(finding) = impossible() {
        return vec![finding];
    }
    let params = &doctor.steering;
    let steered = spot::steered(params);
    let listens = has_listener(params.listen_port);
    let service = process::service(params.listen_port);
    let user = service.as_ref().and_then(process::Service::user);
    let mut found = Vec::new();
    if !listens {
        found.push(no_listener(params));
    }
    let tenants = if listens && !steered.is_empty() { &*doctor.tenants } else { &[] };
    found.extend(thread::scope(|scope| {
        let families = [true, false].map(|v4| {
            let tenants: Vec<_> = tenants
                .iter()
                .take(TENANTS)
                .filter(|tenant| has(v4, tenant.sources.iter().map(IpNet::addr)))
                .collect();
            let steered = &steered;
            scope.spawn(move || family(doctor, &tenants, steered, v4, user))
        });
        let all: Vec<_> = families.into_iter().flat_map(joined).collect();
        all
    }));
    if tenants.len() > TENANTS {
        let rest = tenants.len() - TENANTS;
        found.push(CheckFinding::ok(
            "packets in",
            format!("{rest} more tenants not tried; see egret doctor --packet --from CLIENT --to DEST"),
        ));
    }
    found.sort_by_key(|finding| finding.check);
    found
}

/// Both legs in one family.
fn family(
    doctor: &Doctor,
    tenants: &[&TenantClients],
    steered: &[String],
    v4: bool,
    user: Option<User>,
) -> Vec<CheckFinding> {
    let (params, socket) = (&doctor.steering, doctor.socket.as_deref());
    let pooled = has(v4, params.pools.iter().map(|pool| pool.network.addr()));
    if !pooled && tenants.is_empty() {
        return Vec::new();
    }
    let destinations = spot::destinations(v4, params);
    let ports = ports::probed(&params.ports);
    let outside = Outside::all(&destinations, &ports);
    let (destinations, outside, ports) = (&*destinations, &*outside, &*ports);
    thread::scope(|scope| {
        let pool = PoolLeg { params, v4, destinations, outside, ports, user };
        let not_tried = pool.not_tried();
        let pool = pooled.then(|| scope.spawn(move || pool.try_it()));
        let legs = tenants.iter().map(|tenant| ClientLeg {
            params,
            socket,
            tenant,
            v4,
            steered,
            destinations,
            ports,
        });
        let legs: Vec<_> = legs.map(|leg| scope.spawn(move || (leg.try_it(), leg))).collect();
        let mut found = Vec::new();
        let mut failed = false;
        // All of the first attempts are over before one is watched.
        let tried: Vec<_> = legs.into_iter().map(joined).collect();
        for (tried, leg) in tried {
            let finding = match tried {
                Tried::Done(finding) => finding,
                Tried::Lost(_) if failed => leg.not_watched(),
                Tried::Lost(mut attempt) => {
                    let finding = leg.watch(&mut attempt);
                    failed = finding.level != FindingLevel::Ok;
                    finding
                }
            };
            found.push(finding);
        }
        found.extend(pool.map(joined));
        found.extend(not_tried);
        found
    })
}

fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

fn has(v4: bool, mut addresses: impl Iterator<Item = IpAddr>) -> bool {
    addresses.any(|address| address.is_ipv4() == v4)
}

/// Why nothing can be sent.
fn impossible() -> Option<CheckFinding> {
    const CHECK: &str = "packets";
    let why = "only packets show whether other programs' rules and settings let intercepted traffic pass";
    if let Err(error) = Namespace::new() {
        let found = format!("not sent, in neither direction: a network namespace needs root ({error})");
        return Some(CheckFinding::warn(CHECK, found, why, Mend::run("sudo egret doctor")));
    }
    let missing = ["ip -V", "tc -V", "ss -V"].into_iter().find_map(|command| output(command).err())?;
    Some(CheckFinding::warn(CHECK, format!("not sent: {missing}"), why, Mend::run("apt install iproute2")))
}

fn no_listener(params: &SteeringParams) -> CheckFinding {
    CheckFinding::fail(
        "packets in",
        format!("not sent: nothing in this network namespace listens on port {}", params.listen_port),
        "every intercepted connection is dropped",
        Mend::run("systemctl start egret; journalctl -u egret"),
    )
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
            Self::Client => "such connections of clients do not come about",
            Self::Pool => "such connections, which Egret makes for its clients, do not come about",
        }
    }
}
