//! Pools of a configuration, on this machine.

use super::log_list::list;
use super::privileged::privileged;
use crate::config::Config;
use crate::egress::{Ledger, Pools};
use crate::sys::sock_diag::{self, States};
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Timeout; a list of 15,000 sockets takes some 10 ms.
const PATIENCE: Duration = Duration::from_secs(5);

/// Builds the pools of a configuration, without ports that other programs listen on.
pub(crate) fn pools(config: &Config, ledger: &Arc<Ledger>) -> Arc<Pools> {
    let mut reserved = config.reserved_ports();
    let ranges: Vec<_> = config.pools.iter().map(|pool| pool.ports).collect();
    let kept = privileged(&ranges);
    if let (Some(first), Some(last)) = (kept.first(), kept.last()) {
        tracing::warn!(
            "ports {first} to {last} of the pools are privileged on this machine, and are not used; \
             set another range in [[pool]] ports"
        );
        reserved.extend(kept);
    }
    let pools = Pools::new(&config.pools, &reserved, ledger);
    let listeners = match listeners_in_the_way(&pools) {
        Ok(listeners) if listeners.is_empty() => return Arc::new(pools),
        Ok(listeners) => listeners,
        Err(error) => {
            tracing::warn!(%error, "cannot list who listens on ports of the pools; such ports will collide");
            return Arc::new(pools);
        }
    };
    tracing::warn!(
        listeners = %list(&listeners),
        "other programs listen on ports of the pools, which are not used; set another range in [[pool]] ports, \
         or find them with `ss -ltnp`"
    );
    reserved.extend(listeners.iter().map(SocketAddr::port));
    Arc::new(Pools::new(&config.pools, &reserved, ledger))
}

/// Listeners of other programs on ports of the pools.
pub(crate) fn listeners_in_the_way(pools: &Pools) -> io::Result<BTreeSet<SocketAddr>> {
    let found =
        sock_diag::sockets(States::LISTENING, PATIENCE, |socket| pools.is_hindered_by(socket.source))?;
    Ok(found.into_iter().map(|socket| socket.source).collect())
}
