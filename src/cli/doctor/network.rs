//! Listeners, and what the kernel does to packets on their way.

use super::proc::number;
use crate::cli::findings::CheckFinding;
use crate::cli::mend::Mend;
use crate::control::listeners_in_the_way;
use crate::egress::Pools;

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

/// Listeners that take ports away from pool addresses: those that the gateway leaves out, and warns of.
/// `own`: the port that it listens on.
pub(super) fn foreign_listeners(pools: &Pools, own: u16) -> CheckFinding {
    const CHECK: &str = "listeners";
    let mut listeners = listeners_in_the_way(pools);
    if let Ok(listeners) = &mut listeners {
        listeners.retain(|listener| listener.port() != own);
    }
    let listeners = match listeners {
        Ok(listeners) if listeners.is_empty() => {
            return CheckFinding::ok(
                CHECK,
                "no other program listens on a port of the pools at their addresses",
            );
        }
        Ok(listeners) => listeners,
        Err(error) => {
            return CheckFinding::warn(
                CHECK,
                format!("the kernel does not list who listens: {error}"),
                "a port of the pools on which another program listens makes connections fail",
                Mend::run("ss -ltnp")
                    .and("no port of a pool may be there at a pool's address, or at every address"),
            );
        }
    };
    let listed: Vec<_> = listeners.iter().take(8).map(ToString::to_string).collect();
    CheckFinding::warn(
        CHECK,
        format!(
            "other programs listen on ports of the pools, {} in all: {}",
            listeners.len(),
            listed.join(", ")
        ),
        "Egret leaves these ports out of every pool; those on which one began to listen later, from the next reload on",
        "see `ss -ltnp`; let them listen elsewhere, or take the ports out of [[pool]] ports",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::PortRange;
    use crate::cli::findings::FindingLevel;
    use crate::egress::{Ledger, PoolSpec, SourceSelection};
    use std::collections::BTreeMap;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::time::Duration;

    /// A pool of one address and one port.
    fn pools(address: &str, port: u16, reserved: &[u16]) -> Pools {
        let spec = PoolSpec {
            name: Arc::from("p"),
            addresses: vec![address.parse().unwrap()],
            ports: PortRange::new(port, port).unwrap(),
            select: SourceSelection::Paired,
            rest: Duration::ZERO,
            drain: Vec::new(),
            public: BTreeMap::new(),
            shares: Vec::new(),
        };
        Pools::new(&[spec], reserved, &Arc::new(Ledger::new()))
    }

    #[test]
    fn only_listeners_at_pool_addresses_are_named() {
        for (at, named) in [("0.0.0.0:0", true), ("127.0.0.9:0", true), ("127.0.0.8:0", false)] {
            let listener = TcpListener::bind(at).unwrap();
            let address = listener.local_addr().unwrap();
            let found = foreign_listeners(&pools("127.0.0.9/32", address.port(), &[]), 1);
            assert_eq!(found.level == FindingLevel::Warn, named, "{found:?}");
            assert_eq!(found.found.contains(&address.to_string()), named, "{found:?}");
        }
    }

    /// As the gateway's own, for metrics.
    #[test]
    fn reserved_ports_are_not_in_the_way() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(foreign_listeners(&pools("127.0.0.9/32", port, &[port]), 1).level, FindingLevel::Ok);
        assert_eq!(foreign_listeners(&pools("127.0.0.9/32", port, &[]), port).level, FindingLevel::Ok);
    }
}
