//! Listeners, and what the kernel does to packets on their way.

use super::listeners::listeners;
use super::proc::number;
use crate::addr::PortRange;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;

pub(super) fn conntrack() -> CheckFinding {
    const CHECK: &str = "conntrack";
    let entries = number("net/netfilter/nf_conntrack_count").unwrap_or_default();
    let most = number("net/netfilter/nf_conntrack_max").unwrap_or_default();
    if entries == 0 || entries < most / 5 * 4 {
        return CheckFinding::ok(CHECK, format!("{entries} entries; Egret's flows need none"));
    }
    CheckFinding::warn(
        CHECK,
        format!("{entries} of {most} entries in use"),
        "when the table is full, new connections of other programs are dropped",
        Mend::run(format!("sysctl -w net.netfilter.nf_conntrack_max={}", most * 2)),
    )
}

/// A listener on every address takes its port away from every pool address.
pub(super) fn foreign_listeners(pools: &[PortRange], own: u16) -> CheckFinding {
    const CHECK: &str = "listeners";
    let everywhere = listeners().into_iter().filter(|listener| listener.is_wildcard);
    let mut ports: Vec<u16> = everywhere.map(|listener| listener.port).collect();
    ports.retain(|port| *port != own && pools.iter().any(|pool| pool.contains(*port)));
    ports.sort_unstable();
    ports.dedup();
    if ports.is_empty() {
        return CheckFinding::ok(CHECK, "no other program listens on a port of the pools on every address");
    }
    let listed: Vec<_> = ports.iter().take(8).map(ToString::to_string).collect();
    CheckFinding::warn(
        CHECK,
        format!(
            "other programs listen on every address at {} port(s) of the pools: {}",
            ports.len(),
            listed.join(", ")
        ),
        "Egret cannot bind these ports on pool addresses",
        "see `ss -ltnp`; let them listen on one address, or take the ports out of [[pool]] ports",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::findings::FindingLevel;
    use std::net::TcpListener;

    #[test]
    fn listener_in_pool_range_is_named() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let range = [PortRange::new(port, port).unwrap()];
        let found = foreign_listeners(&range, 1);
        assert!(found.level == FindingLevel::Warn && found.found.contains(&port.to_string()), "{found:?}");
        assert_eq!(foreign_listeners(&range, port).level, FindingLevel::Ok);
    }
}
