//! Client, gateway and server, each in its own network namespace.
//!
//! ```text
//! client c0 ──── c0 gateway s0 ──── s0 server
//! 10.1.0.0/16, fd00:1::/64          198.51.100.2, 2001:db8:51::2
//! ```
//!
//! The client has every address of its networks, and the gateway every source address of every pool (`AnyIP`), so that
//! no measurement depends on how many there are.

use crate::namespace::Namespace;
use crate::peer::KERNELS_PORTS;
use crate::wire::source;
use std::process::Command;

pub struct Net {
    pub client: Namespace,
    pub gateway: Namespace,
    pub server: Namespace,
}

/// Number of the gateway whose addresses kernel NAT uses.
pub const NAT: u8 = 0;
/// Addresses of a pool per family, by default.
pub const POOL: u16 = 10;

impl Net {
    pub fn new() -> Self {
        let net = Self { client: Namespace::new(), gateway: Namespace::new(), server: Namespace::new() };
        net.gateway.join("c0", &net.client);
        net.gateway.join("s0", &net.server);
        for namespace in [&net.client, &net.gateway, &net.server] {
            for (key, value) in [
                ("net/core/somaxconn", "65535"),
                ("net/ipv4/tcp_max_syn_backlog", "65535"),
                ("net/ipv4/tcp_syncookies", "0"),
                ("net/ipv4/tcp_max_tw_buckets", "32768"),
                // for a client that connects incessantly, and for a proxy that lets the kernel choose ports
                ("net/ipv4/tcp_tw_reuse", "1"),
                ("net/ipv4/ip_local_port_range", "20000 65535"),
                ("net/ipv6/ip_nonlocal_bind", "1"),
            ] {
                namespace.sysctl(key, value);
            }
        }
        net.gateway.sysctl("net/ipv4/ip_local_port_range", KERNELS_PORTS);
        net.gateway.set_forwarding(true);
        net.client.ip("link set c0 up\n\
            addr add 10.0.0.2/24 dev c0\naddr add fd00::2/64 dev c0 nodad\n\
            route add local 10.1.0.0/16 dev lo\nroute add local fd00:1::/64 dev lo\n\
            route add default via 10.0.0.1\nroute add default via fd00::1\n");
        net.gateway.ip("link set c0 up\nlink set s0 up\n\
            addr add 10.0.0.1/24 dev c0\naddr add fd00::1/64 dev c0 nodad\n\
            addr add 198.51.100.1/24 dev s0\naddr add 2001:db8:51::1/64 dev s0 nodad\n\
            route add local 100.64.0.0/16 dev lo\nroute add local 2001:db8:64::/48 dev lo\n\
            route add 10.1.0.0/16 via 10.0.0.2\nroute add fd00:1::/64 via fd00::2\n\
            route add default via 198.51.100.2\nroute add default via 2001:db8:51::2\n\
            rule add fwmark 1/1 lookup 100\nroute add local 0.0.0.0/0 dev lo table 100\n");
        net.gateway
            .shell("ip -6 rule add fwmark 1/1 lookup 100 && ip -6 route add local ::/0 dev lo table 100");
        net.server.ip("link set s0 up\n\
            addr add 198.51.100.2/24 dev s0\naddr add 2001:db8:51::2/64 dev s0 nodad\n\
            route add default via 198.51.100.1\nroute add default via 2001:db8:51::1\n");
        for namespace in [&net.client, &net.gateway, &net.server] {
            namespace.wait_for_links();
        }
        net
    }

    /// Replaces all packet rules of the gateway.
    pub fn set_rules(&self, rules: &str) {
        self.gateway.feed(Command::new("nft").args(["-f", "-"]), &format!("flush ruleset\n{rules}"));
    }
}

/// Rules for source NAT of TCP from a pool of the default size.
pub fn nat_rules() -> String {
    let range = |v6| format!("{}-{}", source(NAT, 0, v6), source(NAT, POOL - 1, v6));
    format!(
        "table inet nat {{\n chain postrouting {{\n  type nat hook postrouting priority srcnat; policy accept;\n\
         oifname \"s0\" meta l4proto tcp snat ip to {}\n  oifname \"s0\" meta l4proto tcp snat ip6 to {}\n }}\n}}\n",
        range(false),
        range(true)
    )
}
