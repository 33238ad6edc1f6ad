//! The DNS servers of the machine itself, from `/etc/resolv.conf`.

use crate::files;
use std::net::{IpAddr, SocketAddr};
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
    for named in name_servers(&text) {
        match named {
            Ok(address) => found.push(SocketAddr::new(address, PORT)),
            Err(word) => wrong = Some(word),
        }
    }
    found.truncate(MOST);
    match wrong {
        _ if !found.is_empty() => Ok(found),
        Some(wrong) => Err(format!("its `nameserver {wrong:.80}` is no address")),
        None => Err("it has no `nameserver` line".to_owned()),
    }
}

/// The address of each `nameserver` line of a `resolv.conf`, or the word that is none. Like the C library, takes the first word
/// after it and ignores what follows.
pub fn name_servers(text: &str) -> impl Iterator<Item = Result<IpAddr, &str>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.next().filter(|word| *word == "nameserver")?;
        let named = words.next()?;
        // A zone as in `fe80::1%eth0` is no part of the address.
        Some(named.split('%').next().unwrap_or_default().parse().map_err(|_| named))
    })
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
            (b"nameserver 127.1\nnameserver fe80::1%eth0\nnameserver\n", "[fe80::1]:53"),
            (b"nameserver 127.1\n", "its `nameserver 127.1` is no address"),
            (b"", "it has no `nameserver` line"),
            (b"\xff\xfe\nnameservers 192.0.2.1\n", "it has no `nameserver` line"),
        ] {
            let said = servers(content).map_or_else(|why| why, |found| found[0].to_string());
            assert_eq!(said, expected, "{}", content.escape_ascii());
        }
        assert_eq!(servers("nameserver 192.0.2.1\n".repeat(9).as_bytes()).unwrap().len(), MOST);
    }
}
