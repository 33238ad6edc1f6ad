//! The machine's own addresses.

use super::netlink::{Netlink, Want, array_at, malformed};
use ipnet::IpNet;
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// How long the kernel may take to look up a route.
const PATIENCE: Duration = Duration::from_secs(2);

/// Every address assigned to an interface of this network namespace. Addresses that are local by a route alone
/// (AnyIP) are not among them.
pub fn assigned() -> io::Result<Vec<IpAddr>> {
    let mut all = Vec::new();
    for interface in nix::ifaddrs::getifaddrs()? {
        let Some(address) = interface.address else { continue };
        if let Some(v4) = address.as_sockaddr_in() {
            all.push(IpAddr::V4(v4.ip()));
        } else if let Some(v6) = address.as_sockaddr_in6() {
            all.push(IpAddr::V6(v6.ip()));
        }
    }
    Ok(all)
}

/// Everything that is this machine's: what is assigned to its interfaces, and networks that routes make local (AnyIP).
/// Tables beside `local` and `main` are left out: what delivers marked packets locally makes no address local.
pub fn local() -> io::Result<Vec<IpNet>> {
    let mut all: Vec<_> = assigned()?.into_iter().map(IpNet::from).collect();
    for family in [libc::AF_INET, libc::AF_INET6] {
        // struct rtmsg: the family alone
        let mut request = vec![u8::try_from(family).map_err(io::Error::other)?];
        request.resize(RTMSG, 0);
        let deadline = crate::clock::now() + PATIENCE;
        let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
        netlink.ask(libc::RTM_GETROUTE, Want::List, &request, deadline, |_, body| {
            all.extend(local_network(body));
            Ok(())
        })?;
    }
    Ok(all)
}

/// Length of `struct rtmsg`.
const RTMSG: usize = 12;

/// The destination of a route of type `local`; `None` for other routes, and for one that makes everything local.
fn local_network(body: &[u8]) -> Option<IpNet> {
    let route: [u8; RTMSG] = array_at(body, 0)?;
    let [family, prefix, _, _, table, _, _, kind, ..] = route;
    let counts = kind == libc::RTN_LOCAL && matches!(table, libc::RT_TABLE_LOCAL | libc::RT_TABLE_MAIN);
    let octets = attribute(body.get(RTMSG..)?, libc::RTA_DST).filter(|_| counts && prefix > 0)?;
    let address = match i32::from(family) {
        libc::AF_INET => IpAddr::from(array_at::<4>(octets, 0)?),
        libc::AF_INET6 => IpAddr::from(array_at::<16>(octets, 0)?),
        _ => return None,
    };
    IpNet::new(address, prefix).ok()
}

/// The value of the first attribute of a kind: `struct rtattr` is length, kind, value, and begins at multiples of 4.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(array_at(bytes, 0)?));
        let kind = u16::from_ne_bytes(array_at(bytes, 2)?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

/// Whether packets to an address are for this machine: it is assigned to an interface that is up, or local by a route
/// (AnyIP). That is what a source address needs, or no answer comes back. `bind` would say the same of an IPv4 address
/// and nothing of an IPv6 one; the routing table says it of both.
pub fn is_local(address: IpAddr) -> io::Result<bool> {
    // struct rtmsg: family, length of the destination; then one attribute, RTA_DST
    let (family, octets) = match address {
        IpAddr::V4(ip) => (libc::AF_INET, ip.octets().to_vec()),
        IpAddr::V6(ip) => (libc::AF_INET6, ip.octets().to_vec()),
    };
    let bytes = u8::try_from(octets.len()).map_err(io::Error::other)?;
    let mut request = vec![u8::try_from(family).map_err(io::Error::other)?, bytes * 8];
    request.resize(12, 0);
    request.extend((4 + u16::from(bytes)).to_ne_bytes());
    request.extend(libc::RTA_DST.to_ne_bytes());
    request.extend(octets);
    let mut kind_of_route = None;
    let deadline = crate::clock::now() + PATIENCE;
    let netlink = Netlink::open(SockProtocol::NetlinkRoute)?;
    let answer = netlink.ask(libc::RTM_GETROUTE, Want::One, &request, deadline, |_, body| {
        let route: [u8; 12] = array_at(body, 0).ok_or_else(malformed)?;
        kind_of_route = Some(route[7]);
        Ok(())
    });
    match answer {
        Ok(()) => Ok(kind_of_route == Some(libc::RTN_LOCAL)),
        Err(error) if is_unroutable(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// No route, or one that refuses: unreachable, prohibit, blackhole.
fn is_unroutable(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(
        errno,
        Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL | Errno::ESRCH)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_assigned_and_a_documentation_address_is_not() {
        let all = assigned().unwrap();
        assert!(all.contains(&"127.0.0.1".parse().unwrap()), "{all:?}");
        assert!(!all.contains(&"192.0.2.77".parse().unwrap()), "{all:?}");
    }

    #[test]
    fn loopback_is_local_as_a_network() {
        let all = local().unwrap();
        for network in ["127.0.0.0/8", "127.0.0.1/32"] {
            assert!(all.contains(&network.parse().unwrap()), "{all:?}");
        }
        assert!(all.iter().all(|network| network.prefix_len() > 0), "{all:?}");
    }

    #[test]
    fn attributes_are_never_read_past_their_end() {
        let two = [5, 0, 9, 0, 1, 0, 0, 0, 8, 0, 1, 0, 192, 0, 2, 1];
        assert_eq!(attribute(&two, 1), Some(&[192, 0, 2, 1][..]));
        assert_eq!(attribute(&two, 9), Some(&[1][..]));
        for cut in 0..two.len() {
            assert_eq!(attribute(&two[..cut], 1), None, "{cut}");
        }
        assert_eq!(attribute(&[0, 0, 1, 0, 0, 0, 0, 0], 2), None);
    }

    #[test]
    fn loopback_is_local_and_a_documentation_address_is_not() {
        for (address, local) in
            [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false), ("2001:db8:ffff::77", false)]
        {
            assert_eq!(is_local(address.parse().unwrap()).unwrap(), local, "{address}");
        }
    }
}
