//! The machine's own addresses.

use super::netlink::{Netlink, Want, array_at, malformed};
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
    fn loopback_is_local_and_a_documentation_address_is_not() {
        for (address, local) in
            [("127.0.0.1", true), ("::1", true), ("192.0.2.77", false), ("2001:db8:ffff::77", false)]
        {
            assert_eq!(is_local(address.parse().unwrap()).unwrap(), local, "{address}");
        }
    }
}
