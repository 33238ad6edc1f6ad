//! An authority, `name[:port]`, from a Host header or an absolute request target.

use crate::hostname::{AskedName, NotAHostname};
use std::net::Ipv6Addr;

/// An authority without userinfo (RFC 9110 §7.2).
#[derive(Debug)]
pub(super) struct Authority<'a> {
    host: &'a [u8],
    name: AskedName,
    port: u16,
}

/// The port of `http` where none is given (RFC 9110 §4.2.1).
const DEFAULT_PORT: u16 = 80;

impl<'a> Authority<'a> {
    /// Parses an authority. Ambiguous input, which two readers could understand differently, is an error; input that is
    /// unambiguous but no hostname is not.
    pub(super) fn parse(raw: &'a [u8]) -> Result<Self, &'static str> {
        if raw.iter().any(|b| matches!(b, b'@' | b',' | b'/' | b'\\' | b'?' | b'#' | b' ' | b'\t')) {
            return Err("the host has a character that could hide another host");
        }
        let (host, name, port) = if let [b'[', rest @ ..] = raw {
            let end =
                rest.iter().position(|&b| b == b']').ok_or("the host has a bracket without its pair")?;
            check_ipv6(&rest[..end])?;
            (&raw[..end + 2], AskedName::Invalid(NotAHostname::IpLiteral), &rest[end + 1..])
        } else {
            let (host, port) = raw.split_at(raw.iter().position(|&b| b == b':').unwrap_or(raw.len()));
            (host, AskedName::from_bytes(host), port)
        };
        Ok(Self { host, name, port: parse_port(port)? })
    }

    /// True if both have the same name (or the same other host) and the same port.
    pub(super) fn agrees_with(&self, other: &Self) -> bool {
        let same_name = match (&self.name, &other.name) {
            (AskedName::Valid(a), AskedName::Valid(b)) => a == b,
            _ => self.host.eq_ignore_ascii_case(other.host),
        };
        same_name && self.port == other.port
    }

    /// True if the host is empty, which is valid in a Host header and invalid in a target (RFC 9110 §4.2.1).
    pub(super) fn is_hostless(&self) -> bool {
        self.host.is_empty()
    }

    /// Returns the name.
    pub(super) fn into_name(self) -> AskedName {
        self.name
    }
}

fn check_ipv6(raw: &[u8]) -> Result<(), &'static str> {
    let address = std::str::from_utf8(raw).ok().and_then(|text| text.parse::<Ipv6Addr>().ok());
    address.map(|_| ()).ok_or("the host has brackets around something that is not an IPv6 address")
}

/// Parses the port after the host: nothing, a colon alone (RFC 3986 §3.2.3), or 1 to 65535 in at most five digits.
fn parse_port(raw: &[u8]) -> Result<u16, &'static str> {
    let digits = match raw {
        [] | [b':'] => return Ok(DEFAULT_PORT),
        [b':', digits @ ..] if (1..=5).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) => {
            digits
        }
        _ => return Err("what follows the host is not a port"),
    };
    let port = digits.iter().fold(0, |port, digit| port * 10 + u32::from(digit - b'0'));
    u16::try_from(port).ok().filter(|&port| port != 0).ok_or("the port is not one of 1 to 65535")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(raw: &str) -> Result<(AskedName, u16), &'static str> {
        Authority::parse(raw.as_bytes()).map(|authority| (authority.name, authority.port))
    }

    #[test]
    fn authority_may_have_a_port() {
        let name = AskedName::from_bytes(b"api.example.com");
        for (raw, port) in [
            ("api.example.com", 80),
            ("API.example.com.:443", 443),
            ("api.example.com:1", 1),
            ("api.example.com:65535", 65535),
            ("api.example.com:00080", 80),
            ("api.example.com:", 80),
        ] {
            assert_eq!(parse(raw), Ok((name.clone(), port)), "{raw}");
        }
    }

    #[test]
    fn unambiguous_non_hostnames_are_invalid() {
        for (raw, why) in [
            ("", NotAHostname::Empty),
            (":80", NotAHostname::Empty),
            (":", NotAHostname::Empty),
            ("[::1]:", NotAHostname::IpLiteral),
            ("10.0.0.1:80", NotAHostname::IpLiteral),
            ("[::1]", NotAHostname::IpLiteral),
            ("[2001:db8::1]:8080", NotAHostname::IpLiteral),
            ("[::ffff:10.0.0.1]", NotAHostname::IpLiteral),
            ("%65vil.example", NotAHostname::Character),
            ("a..b", NotAHostname::EmptyLabel),
            ("*.example.com", NotAHostname::Character),
        ] {
            assert_eq!(parse(raw).map(|(name, _)| name), Ok(AskedName::Invalid(why)), "{raw}");
        }
    }

    #[test]
    fn ambiguous_authorities_are_refused() {
        for raw in [
            "a.example,b.example",
            "a.example, b.example",
            "user@a.example",
            "a.example:80@b.example",
            "a.example\\@b.example",
            "a.example/",
            "a.example?b",
            "a.example#b",
            "a.example b.example",
            "a.example\tb.example",
            "a.example:80x",
            "a.example:x",
            "a.example:+80",
            "a.example:0",
            "a.example:65536",
            "a.example:000080",
            "a.example:80:80",
            "::1",
            "[::1",
            "[::1]80",
            "[::1].a.example",
            "[a.example]",
            "[]",
            "[::1%25eth0]",
        ] {
            assert!(parse(raw).is_err(), "{raw}: {:?}", parse(raw));
        }
    }

    #[test]
    fn authorities_agree_by_meaning() {
        let agree = |a: &'static str, b: &'static str| {
            Authority::parse(a.as_bytes()).unwrap().agrees_with(&Authority::parse(b.as_bytes()).unwrap())
        };
        assert!(agree("a.example:", "A.Example.:80") && agree("[::1]:8080", "[::1]:8080"));
        assert!(!agree("a.example", "b.example") && !agree("a.example", "a.example:8080"));
        assert!(!agree("10.0.0.1", "10.0.0.2") && !agree("a.example", "10.0.0.1"));
    }
}
