//! How far this machine has IPv6.

use crate::interface::Interface;
use std::fs;
use std::path::Path;

/// The machine's IPv6, as far as steering needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ipv6Routing {
    /// Intercepted packets can be delivered.
    Possible,
    /// The loopback interface is closed to IPv6 and takes no routes, while a steered interface is open.
    OffOnLoopback,
    /// No steered interface has IPv6.
    Unneeded,
    /// The kernel has no IPv6.
    Absent,
}

/// Finds out, for the steered interfaces of those that are present.
pub fn ipv6_routing(interfaces: &[Interface], present: &[String]) -> Ipv6Routing {
    if !has_ipv6() {
        return Ipv6Routing::Absent;
    }
    let is_open = |name: &str| {
        let closed = fs::read_to_string(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"));
        closed.is_ok_and(|value| value.trim() == "0")
    };
    let is_steered = |name: &&String| interfaces.iter().any(|one| one.covers(name));
    match (is_open("lo"), present.iter().filter(is_steered).any(|name| is_open(name))) {
        (true, _) => Ipv6Routing::Possible,
        (false, true) => Ipv6Routing::OffOnLoopback,
        (false, false) => Ipv6Routing::Unneeded,
    }
}

/// True if the kernel has IPv6, by the same test as the script.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}
