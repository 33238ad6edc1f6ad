//! Listening TCP sockets of this network namespace, as /proc/net lists them.

use super::proc::read;
use std::net::{IpAddr, Ipv6Addr};

/// A listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListeningSocket {
    pub(super) port: u16,
    /// The number of the user that it belongs to.
    pub(super) user: u32,
    /// Unspecified if it listens on every address.
    pub(super) address: IpAddr,
    /// The socket's number.
    pub(super) inode: u64,
}

impl ListeningSocket {
    /// True if it listens on every address.
    pub(super) fn is_wildcard(&self) -> bool {
        self.address.is_unspecified()
    }
}

/// Lists the listeners of both families.
pub(super) fn listeners() -> Vec<ListeningSocket> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| read(path).unwrap_or_default());
    tables.iter().flat_map(|table| listed(table)).collect()
}

/// True if anything listens on the port.
pub(super) fn has_listener(port: u16) -> bool {
    listeners().iter().any(|listener| listener.port == port)
}

/// In the format of /proc/net/tcp and tcp6: state 0A listens.
fn listed(table: &str) -> impl Iterator<Item = ListeningSocket> {
    table.lines().skip(1).filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let (address, port) = words.get(1)?.rsplit_once(':')?;
        let is_listening = *words.get(3)? == "0A";
        let listener = ListeningSocket {
            port: u16::from_str_radix(port, 16).ok()?,
            user: words.get(7)?.parse().ok()?,
            address: ip(address)?,
            inode: words.get(9)?.parse().ok()?,
        };
        is_listening.then_some(listener)
    })
}

/// Each four bytes of an address are printed as the number that they are to this machine.
fn ip(digits: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(digits.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    if digits.len() == 8 {
        return word(0).map(IpAddr::from);
    }
    let [a, b, c, d] = [word(0)?, word(8)?, word(16)?, word(24)?];
    let bytes = [a, b, c, d].concat();
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_have_port_user_and_address() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
            1: 0100007F:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 2 1\n\
            2: 00000000:2328 0100007F:0BB8 01 00000000:00000000 00:00000000 00000000   998        0 3 1\n";
        let listener = |address: &str, port, user, inode| ListeningSocket {
            address: address.parse().unwrap(),
            port,
            user,
            inode,
        };
        let found: Vec<_> = listed(table).collect();
        assert_eq!(found, [listener("0.0.0.0", 8080, 0, 1), listener("127.0.0.1", 3000, 998, 2)]);
        let table6 = "  sl  local_address                         remote_address                        st\n\
            0: 00000000000000000000000000000000:3A99 00000000000000000000000000000000:0000 0A 0:0 0:0 0 998 0 4\n\
            1: 00000000000000000000000001000000:0016 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 5\n";
        let found: Vec<_> = listed(table6).collect();
        assert_eq!(found, [listener("::", 15001, 998, 4), listener("::1", 22, 0, 5)]);
        assert_eq!(listed("").next(), None);
    }
}
