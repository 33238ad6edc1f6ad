//! Each test's own network: client, gateway and server, each in its own namespace.
//!
//! ```text
//! client c0 ──── c0 gateway s0 ──── s0 server
//!  10.0.1.2  alpha                   198.51.100.10 …   2001:db8:51::a …
//!  10.0.2.2  beta                    routes the pools to the gateway
//!  10.0.3.2  gamma                   (of those tests that configure it)
//!  10.0.9.2  nobody's
//! ```

use crate::namespace::Namespace;
use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

/// Owner of a client's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tenant {
    Alpha,
    Beta,
    /// A tenant only in tests that add it.
    Gamma,
    /// Not a tenant's.
    Stranger,
}

/// A host of the server namespace; the value is the last part of its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Host {
    /// nginx.
    Web = 10,
    /// Reached by name rules; tests listen here themselves.
    Named = 11,
    /// Alpha and beta reach it by a CIDR rule with `inspect = "none"`.
    Raw = 20,
    /// Alpha reaches it by a CIDR rule after inspection.
    Inspected = 21,
    /// Covered by nobody's rules.
    Elsewhere = 30,
    /// Alpha and beta reach it uninspected; it does not exist, and the server's network reports that by ICMP.
    Unreachable = 40,
    /// Alpha and beta reach it uninspected; packets to it are dropped.
    Silent = 41,
}

impl Tenant {
    fn number(self) -> u8 {
        match self {
            Self::Alpha => 1,
            Self::Beta => 2,
            Self::Gamma => 3,
            Self::Stranger => 9,
        }
    }

    /// Address of its client.
    pub fn client(self, family: Family) -> IpAddr {
        let number = self.number();
        match family {
            Family::V4 => Ipv4Addr::new(10, 0, number, 2).into(),
            Family::V6 => Ipv6Addr::new(0xfd00, number.into(), 0, 0, 0, 0, 0, 2).into(),
        }
    }

    /// True if the address is in the tenant's pool: a /30 and a /120.
    pub fn owns_source(self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(a) => {
                let base = u32::from(Ipv4Addr::new(203, 0, 113, 16 * self.number()));
                u32::from(a) & !3 == base
            }
            IpAddr::V6(a) => a.segments()[..7] == [0x2001, 0xdb8, u16::from(self.number()) << 8, 0, 0, 0, 0],
        }
    }
}

/// Formats an address for the filters of `ss`.
pub fn in_filter(ip: IpAddr) -> String {
    if ip.is_ipv6() { format!("[{ip}]") } else { ip.to_string() }
}

impl Host {
    pub fn ip(self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(198, 51, 100, self as u8).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x51, 0, 0, 0, 0, self as u16).into(),
        }
    }

    pub fn at(self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.ip(family), port)
    }
}

impl Family {
    /// The gateway's address on the client's network.
    pub fn gateway(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, 0, 1, 1).into(),
            Self::V6 => Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// An address of alpha's pool.
    pub fn pool(self) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(203, 0, 113, 17).into(),
            Self::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 1).into(),
        }
    }
}

pub struct Lab {
    pub client: Namespace,
    pub gateway: Namespace,
    pub server: Namespace,
    /// Replaces `/run` of the gateway's host.
    pub run: TempDir,
}

impl Lab {
    /// Control socket of a gateway that has one.
    pub fn control_socket(&self) -> String {
        self.run.path().join("admin.sock").display().to_string()
    }

    /// Creates links and routes; the gateway forwards nothing, and nothing is steered.
    pub fn new() -> Self {
        let lab = Self {
            client: Namespace::new(),
            gateway: Namespace::new(),
            server: Namespace::new(),
            run: TempDir::with_prefix_in("egret-lab-", "/run").unwrap(),
        };
        lab.gateway.join("c0", &lab.client);
        lab.gateway.join("s0", &lab.server);
        lab.server.set_forwarding(true);
        lab.client.ip(&client_side());
        lab.server.ip(&server_side());
        lab.gateway.ip(&gateway_side());
        for namespace in [&lab.client, &lab.gateway, &lab.server] {
            namespace.wait_for_links();
        }
        lab
    }
}

fn client_side() -> String {
    let mut commands = String::from("link set c0 up\n");
    for tenant in [Tenant::Alpha, Tenant::Beta, Tenant::Gamma, Tenant::Stranger] {
        let (v4, v6) = (tenant.client(Family::V4), tenant.client(Family::V6));
        let _ = writeln!(commands, "addr add {v4}/24 dev c0\naddr add {v6}/64 dev c0 nodad");
    }
    commands + "route add default via 10.0.1.1 src 10.0.1.2\nroute add default via fd00:1::1 src fd00:1::2\n"
}

/// Without the pools: steering makes their addresses local.
fn gateway_side() -> String {
    let mut commands = String::from("link set c0 up\nlink set s0 up\n");
    for tenant in [Tenant::Alpha, Tenant::Beta, Tenant::Gamma, Tenant::Stranger] {
        let n = tenant.number();
        let _ = writeln!(commands, "addr add 10.0.{n}.1/24 dev c0\naddr add fd00:{n}::1/64 dev c0 nodad");
    }
    commands
        + "addr add 198.51.100.1/24 dev s0\naddr add 2001:db8:51::1/64 dev s0 nodad\n\
           route add default via 198.51.100.10\nroute add default via 2001:db8:51::a\n\
           route add 198.51.100.40/31 via 198.51.100.10\nroute add 2001:db8:51::28/127 via 2001:db8:51::a\n"
}

fn server_side() -> String {
    let mut commands = String::from("link set s0 up\n");
    for host in [Host::Web, Host::Named, Host::Raw, Host::Inspected, Host::Elsewhere] {
        let (v4, v6) = (host.ip(Family::V4), host.ip(Family::V6));
        let _ = writeln!(commands, "addr add {v4}/24 dev s0\naddr add {v6}/64 dev s0 nodad");
    }
    commands
        + "route add 203.0.113.0/24 via 198.51.100.1\nroute add 2001:db8:100::/56 via 2001:db8:51::1\n\
           route add 2001:db8:200::/56 via 2001:db8:51::1\n\
           route add 10.0.0.0/16 via 198.51.100.1\nroute add fd00::/16 via 2001:db8:51::1\n\
           route add unreachable 198.51.100.40/32\nroute add unreachable 2001:db8:51::28/128\n\
           route add blackhole 198.51.100.41/32\nroute add blackhole 2001:db8:51::29/128\n"
}
