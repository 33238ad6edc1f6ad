//! Capabilities of processes, and the ports that need one.

use std::fs;

/// A capability, by its bit in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// `CAP_NET_BIND_SERVICE`
    NetBindService = 10,
    /// `CAP_NET_ADMIN`
    NetAdmin = 12,
}

impl Capability {
    /// True if it is effective in a process. `status`: the text of `/proc/PID/status`.
    pub fn is_effective(self, status: &str) -> bool {
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
        bits.is_some_and(|bits| bits >> self as u8 & 1 == 1)
    }
}

/// The first port that a process without [`Capability::NetBindService`] may bind.
pub fn first_unprivileged_port() -> u16 {
    first_port(&fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default())
}

/// The kernel's default is 1024.
fn first_port(setting: &str) -> u16 {
    setting.trim().parse().unwrap_or(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        let admin = |status| Capability::NetAdmin.is_effective(status);
        assert!(admin("Name:\tegret\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n"));
        assert!(admin("CapEff:\t000001ffffffffff\n"));
        assert!(!admin("CapPrm:\t0000000000001000\nCapEff:\t0000000000000400\n") && !admin(""));
        assert!(Capability::NetBindService.is_effective("CapEff:\t0000000000000400\n"));
    }

    #[test]
    fn first_port_is_the_kernels() {
        assert_eq!((first_port("80\n"), first_port("0\n"), first_port("")), (80, 0, 1024));
    }
}
