//! Steering that a running gateway does not take over from its files, since it would cut off clients or hosts that are needed.

use super::SteeringParams;
use super::conflicts::{Conflict, of_needed_hosts};
use super::machine::asked_servers;
use super::missing::{RefusedInterfaces, replace_interfaces};
use crate::files;
use crate::interface::Interface;
use crate::sys::{addresses, connected};
use std::collections::BTreeSet;
use std::path::Path;

/// Reason why steering must not follow the files.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedSteering {
    /// Clients would not be intercepted any more.
    #[error(transparent)]
    Interfaces(#[from] RefusedInterfaces),
    /// A pool has the address of a host that the machine needs.
    #[error("{0}")]
    Pool(Conflict),
}

impl RefusedSteering {
    /// Names what is refused.
    pub fn found(&self) -> String {
        match self {
            Self::Interfaces(refused) => refused.found(),
            Self::Pool(conflict) => format!("{}: {}", conflict.found, conflict.why),
        }
    }

    /// The cure.
    pub fn fix(&self) -> String {
        match self {
            Self::Interfaces(refused) => refused.fix(),
            Self::Pool(conflict) => conflict.fix.clone(),
        }
    }
}

/// Refuses steering that must not take the place of that by the interfaces `before`, as `egret steering print` does. Where the
/// kernel does not list what it goes by, nothing is known to be wrong.
///
/// # Errors
/// The reason.
pub fn replace(before: &[Interface], after: &SteeringParams) -> Result<(), RefusedSteering> {
    replace_interfaces(before, &after.interfaces, &after.sources)?;
    match refused_pool(after) {
        Some(conflict) => Err(RefusedSteering::Pool(conflict)),
        None => Ok(()),
    }
}

/// The first conflict for which steering is refused whatever was before, read without the `ip` command.
fn refused_pool(params: &SteeringParams) -> Option<Conflict> {
    let own: BTreeSet<_> = addresses::assigned().ok()?.into_iter().collect();
    let next_hops = connected::next_hops().unwrap_or_default();
    let read = |path: &str| {
        let content = files::read(Path::new(path), files::TEXT).unwrap_or_default();
        String::from_utf8_lossy(&content).into_owned()
    };
    let configured = params.resolvers.iter().copied();
    let servers =
        asked_servers(&read("/etc/resolv.conf"), &read("/run/systemd/resolve/resolv.conf"), configured);
    let pools = params.pools.iter().map(|pool| pool.network.trunc());
    pools.flat_map(|pool| of_needed_hosts(pool, &next_hops, &servers, |host| own.contains(&host))).next()
}
