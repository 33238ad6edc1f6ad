//! Rules and routes of this network namespace, as rtnetlink lists them. No capability is needed.

mod rules;
mod ways_out;

pub use rules::{RoutingRule, rules};
pub use ways_out::{RoutingTables, SOURCES, WaysOut};

use super::netlink::{Netlink, Want, array_at, attribute, attribute_of, malformed};
use crate::family::Family;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use prefix_trie::PrefixMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Longest wait for one answer of the kernel.
const PATIENCE: Duration = Duration::from_secs(2);
/// `struct fib_rule_hdr` and `struct rtmsg`: the family first, then lengths and the like.
pub(super) const HEADER: usize = 12;

/// An address that only a default route covers, for route lookups: that of a root server. Nothing is sent there.
pub fn far_address(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(198, 41, 0, 4).into(),
        Family::V6 => Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 0x2, 0x30).into(),
    }
}

/// `AF_INET` or `AF_INET6`, as the byte of a question.
fn number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

/// Lists the networks that a table delivers locally, in no order.
pub fn local_routes(family: Family, table: u32) -> io::Result<Vec<IpNet>> {
    networks(family, table, libc::RTN_LOCAL)
}

/// Lists the broadcast addresses of links, of which IPv6 has none.
pub fn broadcast_routes() -> io::Result<Vec<IpNet>> {
    networks(Family::V4, LOCAL_TABLE, libc::RTN_BROADCAST)
}

/// Lists the anycast addresses of this machine, which IPv6 has where it forwards packets (RFC 4291 §2.6.1).
pub fn anycast_routes() -> io::Result<Vec<IpNet>> {
    networks(Family::V6, LOCAL_TABLE, libc::RTN_ANYCAST)
}

/// Lists the networks of all routes of a kind in a table.
fn networks(family: Family, table: u32, kind: u8) -> io::Result<Vec<IpNet>> {
    let mut found = Vec::new();
    routes(family, table, kind, |network, _| {
        found.push(network);
        Ok(())
    })?;
    Ok(found)
}

/// Lists the routes of a table that do not deliver locally, as `ip route` names them: `203.0.113.0/24`, `blackhole
/// 192.0.2.0/24`.
pub fn leading_away(family: Family, table: u32) -> io::Result<Vec<String>> {
    let mut found = Vec::new();
    routes(family, table, libc::RTN_UNSPEC, |network, kind| {
        let name = match kind {
            libc::RTN_LOCAL => return Ok(()),
            libc::RTN_BLACKHOLE => "blackhole ",
            libc::RTN_UNREACHABLE => "unreachable ",
            libc::RTN_PROHIBIT => "prohibit ",
            libc::RTN_THROW => "throw ",
            _ => "",
        };
        found.push(format!("{name}{network}"));
        Ok(())
    })?;
    Ok(found)
}

/// True if packets to an address are for this machine: it is assigned to an interface that is up, or local by a route
/// (AnyIP). A source address needs that, or no answers arrive. `bind` would check it for IPv4 addresses only; the
/// routing table does for both families.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    Ok(way(address, None, None)? == RouteDecision::Local)
}

/// The kernel's `local` table.
pub const LOCAL_TABLE: u32 = 255;
/// The kernel's `main` table, by which packets go unless a rule says otherwise.
pub const MAIN_TABLE: u32 = 254;

/// A copy of the kernel's `local` table, for many lookups.
#[derive(Debug)]
pub struct LocalTable {
    v4: PrefixMap<Ipv4Net, bool>,
    v6: PrefixMap<Ipv6Net, bool>,
}

impl LocalTable {
    /// Copies the table.
    pub fn read() -> io::Result<Self> {
        let mut table = Self { v4: PrefixMap::new(), v6: PrefixMap::new() };
        for family in Family::ALL {
            routes(family, LOCAL_TABLE, libc::RTN_UNSPEC, |network, kind| {
                let local = kind == libc::RTN_LOCAL;
                match network {
                    IpNet::V4(network) => table.v4.insert(network, local),
                    IpNet::V6(network) => table.v6.insert(network, local),
                };
                Ok(())
            })?;
        }
        Ok(table)
    }

    /// True if packets to the address are for this machine: [`is_local`].
    pub fn is_local(&self, address: IpAddr) -> io::Result<bool> {
        // another table may make it local
        if self.lists(address) { Ok(true) } else { is_local(address) }
    }

    /// True if the `local` table delivers the address locally.
    pub fn lists(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.v4.get_lpm(&address.into()).is_some_and(|(_, local)| *local),
            IpAddr::V6(address) => self.v6.get_lpm(&address.into()).is_some_and(|(_, local)| *local),
        }
    }
}

/// Calls `each` for every route of a kind (0: any) in a table, with its network and its kind (`RTN_LOCAL` and so on), until
/// it fails.
fn routes(
    family: Family,
    table: u32,
    kind: u8,
    mut each: impl FnMut(IpNet, u8) -> io::Result<()>,
) -> io::Result<()> {
    let mut request = header(family, 0, 0);
    request[7] = kind;
    request.extend(attribute_of(libc::RTA_TABLE, &table.to_ne_bytes()));
    list(libc::RTM_GETROUTE, &request, |body| {
        let (length, kind) = (body.get(1).ok_or_else(malformed)?, body.get(7).ok_or_else(malformed)?);
        let to = attribute(body.get(HEADER..).unwrap_or_default(), libc::RTA_DST);
        let address = match (family, to) {
            (Family::V4, Some(to)) => array_at::<4>(to, 0).map(IpAddr::from),
            (Family::V6, Some(to)) => array_at::<16>(to, 0).map(IpAddr::from),
            (Family::V4, None) => Some(IpAddr::from([0; 4])),
            (Family::V6, None) => Some(IpAddr::from([0; 16])),
        };
        let network = IpNet::new(address.ok_or_else(malformed)?, *length).map_err(io::Error::other)?;
        each(network, *kind)
    })
}

/// Result of a route lookup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteDecision {
    /// Delivered to this machine.
    Local,
    /// Sent out of this machine.
    Out,
    /// Not sent: there is no route, or one that refuses.
    Nowhere,
}

/// Looks up the route of a packet that this machine sends, from a source address or with a mark.
pub fn way(to: IpAddr, from: Option<IpAddr>, mark: Option<u32>) -> io::Result<RouteDecision> {
    let family = Family::of(to);
    let mut request = header(family, bits(to), from.map_or(0, bits));
    request.extend(attribute_of(libc::RTA_DST, &octets(to)));
    if let Some(from) = from {
        request.extend(attribute_of(libc::RTA_SRC, &octets(from)));
    }
    if let Some(mark) = mark {
        request.extend(attribute_of(libc::RTA_MARK, &mark.to_ne_bytes()));
    }
    let mut kind = None;
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    let deadline = crate::clock::now() + PATIENCE;
    let answer = netlink.ask(libc::RTM_GETROUTE, Want::One, &request, deadline, |_, body| {
        kind = Some(*body.get(7).ok_or_else(malformed)?);
        Ok(())
    });
    match answer {
        Ok(()) if kind == Some(libc::RTN_LOCAL) => Ok(RouteDecision::Local),
        Ok(()) if kind == Some(libc::RTN_UNICAST) => Ok(RouteDecision::Out),
        Ok(()) => Ok(RouteDecision::Nowhere),
        Err(error) if is_unroutable(&error) => Ok(RouteDecision::Nowhere),
        Err(error) => Err(error),
    }
}

/// True if there is no route, or one that refuses (unreachable, prohibit, blackhole), or no support for the family.
fn is_unroutable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(
            Errno::ENETUNREACH
                | Errno::EHOSTUNREACH
                | Errno::EACCES
                | Errno::EINVAL
                | Errno::ESRCH
                | Errno::EAFNOSUPPORT
                | Errno::EOPNOTSUPP
        )
    )
}

/// Returns the names of the interfaces.
pub fn interfaces() -> io::Result<Vec<String>> {
    let all = nix::net::if_::if_nameindex()?;
    Ok(all.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect())
}

/// Calls `each` for the body of every message of a list that is of the request's family. Request and messages begin with a
/// family; 0 stands for all. A family that the kernel does not support has an empty list, as a table without routes has.
pub(super) fn list(
    kind: u16,
    request: &[u8],
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    // Otherwise the kernel ignores the filter and lists every route of every table.
    netlink.filter_strictly()?;
    let deadline = crate::clock::now() + PATIENCE;
    let listed = netlink.ask(kind, Want::List, request, deadline, |_, body| {
        if is_of_family(request, body) { each(body) } else { Ok(()) }
    });
    match listed {
        Err(error)
            if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EOPNOTSUPP | libc::EAFNOSUPPORT)) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// False for a message of a family that was not asked for. The kernel lists the routes of all families when it is asked for one
/// that it does not support, as IPv6 under `ipv6.disable=1` (`rtnl_dump_all()` in net/core/rtnetlink.c).
fn is_of_family(request: &[u8], message: &[u8]) -> bool {
    matches!(request.first(), None | Some(0)) || request.first() == message.first()
}

/// `struct rtmsg` with family and prefix lengths; with lengths of 0 also `struct fib_rule_hdr`.
pub(super) fn header(family: Family, to: u8, from: u8) -> Vec<u8> {
    let mut header = vec![number(family), to, from];
    header.resize(HEADER, 0);
    header
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_lists_local_routes_and_rules() {
        let local = local_routes(Family::V4, 255).unwrap();
        assert!(local.contains(&"127.0.0.1/32".parse().unwrap()), "{local:?}");
        assert_eq!(local_routes(Family::V4, 987_654).unwrap(), []);
        assert_eq!(leading_away(Family::V4, 987_654).unwrap(), Vec::<String>::new());
        assert!(rules(Family::V4).unwrap().iter().any(|rule| rule.table == 255 && rule.mark.is_none()));
        assert!(interfaces().unwrap().contains(&"lo".to_owned()));
        let table = LocalTable::read().unwrap();
        for (address, local) in [
            ("127.0.0.1", true),
            ("127.255.255.255", false),
            ("192.0.2.77", false),
            ("2001:db8:ffff::77", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(table.is_local(address).unwrap(), local, "{address}");
            assert_eq!(is_local(address).unwrap(), local, "{address}");
        }
        assert_eq!(way("127.0.0.1".parse().unwrap(), None, None).unwrap(), RouteDecision::Local);
    }

    #[test]
    fn unsupported_family_has_no_routes() {
        // AX.25 and IPX: the kernel has no routes of theirs, and answers with those of IPv4.
        for family in [3, 4] {
            let mut request = header(Family::V6, 0, 0);
            request[0] = family;
            for kind in [libc::RTM_GETROUTE, libc::RTM_GETRULE] {
                list(kind, &request, |body| panic!("{body:?}")).unwrap();
            }
        }
    }

    #[test]
    fn messages_of_other_families_are_skipped() {
        let message = |family| [header(family, 8, 0), attribute_of(libc::RTA_DST, &[127, 0, 0, 0])].concat();
        let [v4, v6] = Family::ALL.map(|family| header(family, 0, 0));
        assert!(is_of_family(&v4, &message(Family::V4)) && is_of_family(&[0; 16], &message(Family::V4)));
        assert!(!is_of_family(&v6, &message(Family::V4)) && !is_of_family(&v6, &[]));
    }

    #[test]
    fn only_loopback_is_local() {
        for (address, local) in
            [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false), ("2001:db8:ffff::77", false)]
        {
            assert_eq!(is_local(address.parse().unwrap()).unwrap(), local, "{address}");
        }
    }
}
