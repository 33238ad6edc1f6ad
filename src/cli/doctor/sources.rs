//! Checks that each pool has a source address in use, as the running gateway sees it.

use super::families::UsedPool;
use crate::admin::{PortsReport, SourcePorts};
use crate::cli::ask::ask;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::family::Family;
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::Path;

/// One finding for each family of a pool that gives out no ports. None if the gateway cannot be asked, which other findings
/// tell.
pub(super) fn unusable(socket: &Path, pools: &[UsedPool]) -> Vec<CheckFinding> {
    let Some(report) = asked(socket) else { return Vec::new() };
    let mut found = Vec::new();
    for (index, family) in Family::ALL.into_iter().enumerate() {
        for pool in pools.iter().filter(|pool| pool.clients[index]) {
            found.extend(of_pool(&report, &pool.name, family));
        }
    }
    found
}

/// The same for one family of one pool.
pub(super) fn unusable_of(socket: &Path, pool: &str, family: Family) -> Option<CheckFinding> {
    of_pool(&asked(socket)?, pool, family)
}

fn asked(socket: &Path) -> Option<PortsReport> {
    ask(socket, "GET", "/v1/ports", "").ok()
}

fn of_pool(report: &PortsReport, pool: &str, family: Family) -> Option<CheckFinding> {
    let all = report.sources.iter().filter(|source| *source.pool == *pool);
    let (own, other): (Vec<_>, Vec<_>) = all.partition(|source| is_of(source, family));
    finding(pool, family, &own, other.iter().any(|source| source.state == "available"))
}

/// `refused`: the other family can leave, so that this one is refused at once.
fn finding(pool: &str, family: Family, sources: &[&SourcePorts], refused: bool) -> Option<CheckFinding> {
    let in_state = |state: &str| sources.iter().filter(|source| source.state == state).count();
    let first = sources.first()?;
    if in_state("available") > 0 {
        return None;
    }
    let (what, cure) = if in_state("draining") == sources.len() {
        const BY_FILE: &str = "take `drain` out of [[pool]]";
        // Networks whose addresses are derived for each client are drained by the configuration alone.
        let cure = match first.source.parse::<IpAddr>() {
            Ok(address) => Mend::run(format!("egret ports undrain {address}")).and(format!("or {BY_FILE}")),
            Err(_) => format!("{BY_FILE}, then `egret reload`").into(),
        };
        ("drained", cure)
    } else {
        (
            "drained or not local to this machine",
            Mend::run(format!("egret ports --pool {pool}; systemctl restart egret-steering")),
        )
    };
    let family = family.as_str();
    Some(CheckFinding::fail(
        "source addresses",
        format!("every {family} source address of pool {pool} is {what}: {} of {0}", sources.len()),
        if refused {
            "connections of that family are refused at once; clients that have the other family too fall back to it"
        } else {
            "connections are accepted and end as no_source_address: no family of the pool has an address in use"
        },
        cure,
    ))
}

/// A source is an address, or a network whose addresses are derived for each client.
fn is_of(source: &SourcePorts, family: Family) -> bool {
    let network = source.source.parse::<IpNet>().map(|network| network.addr());
    network.or_else(|_| source.source.parse::<IpAddr>()).is_ok_and(|address| Family::of(address) == family)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pool_without_usable_source_is_told() {
        let source = |source: &str, state: &str| SourcePorts {
            pool: "a".into(),
            source: source.to_owned(),
            public: None,
            state: state.to_owned(),
            capacity: 1,
            live: 0,
            held: 0,
            busiest: 0,
        };
        let of = |network: &str, states: &[&str]| {
            let sources: Vec<_> = states.iter().map(|state| source(network, state)).collect();
            let found = finding("a", Family::V4, &sources.iter().collect::<Vec<_>>(), true);
            found.map(|finding| (finding.found, finding.mend.unwrap_or_default().to_string()))
        };
        let told = |states: &[&str]| of("192.0.2.1", states);
        let (_, cure) = of("2001:db8::/64", &["draining"]).unwrap();
        assert_eq!(cure, "take `drain` out of [[pool]], then `egret reload`");
        let (found, cure) = told(&["draining", "draining"]).unwrap();
        assert_eq!(found, "every IPv4 source address of pool a is drained: 2 of 2");
        assert!(cure.starts_with("egret ports undrain 192.0.2.1"), "{cure}");
        assert!(told(&["draining", "withdrawn"]).unwrap().0.contains("drained or not local"));
        assert_eq!(told(&["draining", "available"]), None);
        assert_eq!(told(&[]), None);
        let drained = source("192.0.2.1", "draining");
        for (refused, why) in [(true, "refused at once"), (false, "no_source_address")] {
            let finding = finding("a", Family::V4, &[&drained], refused).unwrap();
            assert!(finding.why.contains(why), "{finding:?}");
        }
        assert!(is_of(&source("2001:db8::/64", "available"), Family::V6));
        assert!(!is_of(&source("192.0.2.1", "available"), Family::V6));
    }
}
