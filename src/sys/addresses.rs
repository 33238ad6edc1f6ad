//! The machine's own addresses.

use std::io;
use std::net::IpAddr;

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_list_can_be_read() {
        assert!(super::assigned().is_ok());
    }
}
