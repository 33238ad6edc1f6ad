//! Names in the one spelling that policy compares.
//!
//! What two spellings have in common is decided here, before any matching: ASCII lower case, one trailing dot
//! stripped, labels of letters, digits, hyphen and underscore (RFC 1123, plus the underscore that service names
//! use), internationalised names in their A-label form as they come. Whatever is left over, above all an IP
//! address in any notation, is not a hostname.

use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// RFC 1035 §2.3.4 counts 255 octets on the wire, which is 253 characters without the trailing dot.
const MAX_NAME: usize = 253;
/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;

/// A hostname in canonical form. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Hostname(Arc<str>);

/// Why a string is not a hostname.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotAHostname {
    /// Nothing is there, or a lone dot.
    Empty,
    /// More than 253 characters.
    TooLong,
    /// A leading dot, two dots in a row, or two trailing dots.
    EmptyLabel,
    /// A label of more than 63 characters.
    LabelTooLong,
    /// A label that starts or ends with a hyphen.
    Hyphen,
    /// A byte outside letters, digits, hyphen, underscore and dot: NUL, space, `:`, `[`, `%`, non-ASCII …
    Character,
    /// An IPv4 address in any notation that a resolver would take: the last label is a number (decimal, octal, hex).
    IpLiteral,
}

impl NotAHostname {
    /// In a few words, for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "the name is empty",
            Self::TooLong => "the name is longer than 253 characters",
            Self::EmptyLabel => "the name has an empty label",
            Self::LabelTooLong => "a label is longer than 63 characters",
            Self::Hyphen => "a label starts or ends with a hyphen",
            Self::Character => "the name has a character that hostnames do not have",
            Self::IpLiteral => "the name is an IP address",
        }
    }
}

impl fmt::Display for NotAHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for NotAHostname {}

impl Hostname {
    /// Canonicalises what a client sent or an operator wrote.
    pub fn canonicalize(raw: &[u8]) -> Result<Self, NotAHostname> {
        let raw = raw.strip_suffix(b".").unwrap_or(raw);
        if raw.is_empty() {
            return Err(NotAHostname::Empty);
        }
        if raw.len() > MAX_NAME {
            return Err(NotAHostname::TooLong);
        }
        let mut last = raw;
        for label in raw.split(|&b| b == b'.') {
            check_label(label)?;
            last = label;
        }
        if is_number(last) {
            return Err(NotAHostname::IpLiteral);
        }
        let name = std::str::from_utf8(raw).map_err(|_| NotAHostname::Character)?;
        if name.bytes().any(|b| b.is_ascii_uppercase()) {
            return Ok(Self(name.to_ascii_lowercase().into()));
        }
        Ok(Self(name.into()))
    }

    /// The name, lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name's parents, nearest first: `a.b.c` yields `b.c`, `c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.as_str();
        std::iter::from_fn(move || {
            rest = rest.split_once('.')?.1;
            Some(rest)
        })
    }
}

fn check_label(label: &[u8]) -> Result<(), NotAHostname> {
    let (Some(first), Some(last)) = (label.first(), label.last()) else {
        return Err(NotAHostname::EmptyLabel);
    };
    if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(NotAHostname::Character);
    }
    if *first == b'-' || *last == b'-' {
        return Err(NotAHostname::Hyphen);
    }
    if label.len() > MAX_LABEL {
        return Err(NotAHostname::LabelTooLong);
    }
    Ok(())
}

/// Whether a last label makes the whole an IPv4 address to the resolvers that accept short, octal and hex forms
/// (`inet_aton(3)`; the WHATWG URL standard's "ends in a number"). No top-level domain is a number.
fn is_number(label: &[u8]) -> bool {
    if label.iter().all(u8::is_ascii_digit) {
        return true;
    }
    match label {
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        _ => false,
    }
}

impl FromStr for Hostname {
    type Err = NotAHostname;
    fn from_str(s: &str) -> Result<Self, NotAHostname> {
        Self::canonicalize(s.as_bytes())
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The name a client asked for, as far as it could be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AskedName {
    /// It sent none, or speaks a protocol that has none.
    Absent,
    /// It sent something that is not a hostname.
    Invalid(NotAHostname),
    /// It sent this one.
    Valid(Hostname),
}

impl AskedName {
    /// Canonicalises what the client sent.
    pub fn from_bytes(raw: &[u8]) -> Self {
        match Hostname::canonicalize(raw) {
            Ok(name) => Self::Valid(name),
            Err(why) => Self::Invalid(why),
        }
    }
}

/// What a rule says of names: one name, or every subdomain of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(Hostname),
    /// `*.name`: subdomains at any depth, and not the name itself.
    Subdomains(Hostname),
}

impl HostPattern {
    /// Whether the pattern covers the name.
    pub fn matches(&self, name: &Hostname) -> bool {
        match self {
            Self::Exact(exact) => exact == name,
            Self::Subdomains(apex) => name.parents().any(|parent| parent == apex.as_str()),
        }
    }
}

impl FromStr for HostPattern {
    type Err = NotAHostname;
    fn from_str(s: &str) -> Result<Self, NotAHostname> {
        Ok(match s.strip_prefix("*.") {
            Some(apex) => Self::Subdomains(apex.parse()?),
            None => Self::Exact(s.parse()?),
        })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => name.fmt(f),
            Self::Subdomains(apex) => write!(f, "*.{apex}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn spellings_of_one_name_are_one() {
        for spelling in ["api.example.com", "API.Example.COM", "api.example.com.", "Api.example.com."] {
            assert_eq!(spelling.parse::<Hostname>().unwrap().as_str(), "api.example.com");
        }
        assert_eq!(
            "_dmarc.xn--bcher-kva.example".parse::<Hostname>().unwrap().as_str(),
            "_dmarc.xn--bcher-kva.example"
        );
    }

    #[test]
    fn what_is_not_a_hostname_says_why() {
        use NotAHostname::*;
        let long_label = format!("{}.com", "a".repeat(64));
        let long_name = format!("{}com", "a23456789.".repeat(26));
        let cases: &[(&[u8], NotAHostname)] = &[
            (b"", Empty),
            (b".", Empty),
            (b"..", EmptyLabel),
            (b".example.com", EmptyLabel),
            (b"a..b", EmptyLabel),
            (b"example.com..", EmptyLabel),
            (b"example.com\0.evil.org", Character),
            (b"exa mple.com", Character),
            (b"example.com:443", Character),
            (b"[::1]", Character),
            (b"::ffff:10.0.0.1", Character),
            (b"b\xc3\xbccher.example", Character),
            (b"*.example.com", Character),
            (b"-a.example", Hyphen),
            (b"a-.example", Hyphen),
            (long_label.as_bytes(), LabelTooLong),
            (long_name.as_bytes(), TooLong),
            (b"10.0.0.1", IpLiteral),
            (b"10.1", IpLiteral),
            (b"0x7f.0.0.1", IpLiteral),
            (b"2130706433", IpLiteral),
            (b"0177.0.0.01", IpLiteral),
            (b"0x7f000001", IpLiteral),
            (b"a.0X", IpLiteral),
            (b"127.0.0.1.", IpLiteral),
        ];
        for (raw, why) in cases {
            assert_eq!(Hostname::canonicalize(raw), Err(*why), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn a_wildcard_covers_any_depth_and_not_the_apex() {
        let pattern: HostPattern = "*.Example.com".parse().unwrap();
        let covers = |name: &str| pattern.matches(&name.parse().unwrap());
        assert!(covers("a.example.com") && covers("a.b.example.com"));
        assert!(!covers("example.com") && !covers("aexample.com") && !covers("example.com.evil.org"));
        assert_eq!(pattern.to_string(), "*.example.com");
    }

    proptest! {
        #[test]
        fn canonical_is_a_fixed_point(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Hostname::canonicalize(&raw) {
                prop_assert_eq!(Hostname::canonicalize(name.as_str().as_bytes()), Ok(name.clone()));
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }

        #[test]
        fn case_and_one_trailing_dot_never_matter(name in "[a-z0-9_]{1,10}(\\.[a-z0-9_]{1,10}){0,4}\\.[a-z]{2,5}", dot in any::<bool>()) {
            let mut shouted = name.to_ascii_uppercase();
            if dot { shouted.push('.'); }
            let heard = shouted.parse::<Hostname>().unwrap();
            prop_assert_eq!(heard.as_str(), name.as_str());
        }
    }
}
