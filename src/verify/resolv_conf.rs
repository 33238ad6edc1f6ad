//! The DNS servers of the machine itself, from `/etc/resolv.conf`.

use crate::files;
use crate::sys::links;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::Path;

/// Most servers, as many as `[resolver] servers` may name.
pub(super) const MOST: usize = 8;
const PORT: u16 = 53;

/// Returns the servers of the machine itself; at least one, else the reason and the remedy.
pub fn system_servers() -> Result<Vec<SocketAddr>, String> {
    let content = files::read(Path::new("/etc/resolv.conf"), files::TEXT).map_err(|error| error.to_string());
    content.and_then(|content| servers(&content)).map_err(|why| {
        format!("/etc/resolv.conf names no DNS server ({why}); write some in `[resolver] servers`")
    })
}

/// The addresses; one that is none is passed over, as the C library does.
fn servers(content: &[u8]) -> Result<Vec<SocketAddr>, String> {
    let (mut found, mut wrong) = (Vec::new(), None);
    let text = String::from_utf8_lossy(content);
    for word in server_words(&text) {
        match server(word) {
            Ok(server) => found.push(server),
            Err(why) => wrong = Some((word, why)),
        }
    }
    found.truncate(MOST);
    match wrong {
        _ if !found.is_empty() => Ok(found),
        Some((word, why)) => Err(format!("its `nameserver {word:.80}` {why}")),
        None => Err("it has no `nameserver` line".to_owned()),
    }
}

/// The address of each `nameserver` line of a `resolv.conf`, without the interface of a link-local one.
pub fn name_servers(text: &str) -> impl Iterator<Item = IpAddr> {
    server_words(text).filter_map(|word| split(word).0)
}

/// The word after each `nameserver` of a `resolv.conf`; what follows is ignored, as by the C library.
fn server_words(text: &str) -> impl Iterator<Item = &str> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        words.next()
    })
}

/// The address, if it is one, and the interface, as in `fe80::1%eth0`.
fn split(word: &str) -> (Option<IpAddr>, Option<&str>) {
    let (address, interface) =
        word.split_once('%').map_or((word, None), |(address, interface)| (address, Some(interface)));
    (address.parse().ok(), interface)
}

/// Parses a server; else returns what it is not. Only a link-local address needs its interface.
fn server(word: &str) -> Result<SocketAddr, &'static str> {
    match split(word) {
        (None, _) => Err("is no address"),
        (Some(IpAddr::V6(address)), interface) if address.is_unicast_link_local() => {
            let interface = interface.ok_or("has no interface, as in `fe80::1%eth0`")?;
            let index = links::index(interface).or_else(|| interface.parse().ok());
            let index = index.ok_or("names an interface that this machine does not have")?;
            Ok(SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (Some(address), _) => Ok(SocketAddr::new(address, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_no_use_are_passed_over() {
        for (content, expected) in [
            (&b"nameserver 192.0.2.1\n"[..], "192.0.2.1:53"),
            (b"\xef\xbb\xbfnameserver 192.0.2.1", "192.0.2.1:53"),
            (
                b"# a comment\r\nsearch example.org\r\n nameserver\t2001:db8::1 # more\r\noptions edns0\r\n",
                "[2001:db8::1]:53",
            ),
            (b"nameserver 127.1\nnameserver fe80::1%7\nnameserver\n", "[fe80::1%7]:53"),
            (b"nameserver fe80::1\nnameserver 2001:db8::1%7\n", "[2001:db8::1]:53"),
            (b"nameserver 127.1\n", "its `nameserver 127.1` is no address"),
            (b"nameserver fe80::1\n", "its `nameserver fe80::1` has no interface, as in `fe80::1%eth0`"),
            (
                b"nameserver fe80::1%none0\n",
                "its `nameserver fe80::1%none0` names an interface that this machine does not have",
            ),
            (b"", "it has no `nameserver` line"),
            (b"\xff\xfe\nnameservers 192.0.2.1\n", "it has no `nameserver` line"),
        ] {
            let said = servers(content).map_or_else(|why| why, |found| found[0].to_string());
            assert_eq!(said, expected, "{}", content.escape_ascii());
        }
        assert_eq!(servers("nameserver 192.0.2.1\n".repeat(9).as_bytes()).unwrap().len(), MOST);
    }

    #[test]
    fn link_local_server_keeps_its_interface() {
        let index = links::index("lo").unwrap();
        assert_eq!(server("fe80::1%lo").unwrap().to_string(), format!("[fe80::1%{index}]:53"));
        let text = "nameserver fe80::1%lo\nnameserver 127.1\nnameserver 192.0.2.1\n";
        let addresses: Vec<_> = name_servers(text).map(|address| address.to_string()).collect();
        assert_eq!(addresses, ["fe80::1", "192.0.2.1"]);
    }
}
