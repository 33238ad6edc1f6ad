//! Hostnames in canonical form, as policy compares them.
//!
//! Spellings are unified here, before any matching: ASCII lower case, one trailing dot stripped, labels of letters,
//! digits, hyphen and underscore (RFC 1123, plus the underscore that service names use, and hyphens at either end of a
//! label, which DNS and clients accept). Anything else, above all an IP address in any notation, is not a hostname.
//!
//! Internationalised names are compared by their A-labels (`xn--…`), byte for byte, as in the DNS: an A-label that is
//! not valid Punycode is a name like any other, and equals only itself. Bytes outside ASCII are refused from a client;
//! from an operator ([`FromStr`]) they are converted (UTS 46, non-transitional).

use serde::{Serialize, Serializer};
use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

/// RFC 1035 §2.3.4 counts 255 octets on the wire, which is 253 characters without the trailing dot.
const MAX_NAME: usize = 253;
/// RFC 1035 §2.3.4.
const MAX_LABEL: usize = 63;

/// A hostname in canonical form. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Hostname(Arc<str>);

/// Reason why a string is not a hostname.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NotAHostname {
    /// Empty, or a lone dot.
    Empty,
    /// More than 253 characters.
    TooLong,
    /// A leading dot, two dots in a row, or two trailing dots.
    EmptyLabel,
    /// A label of more than 63 characters.
    LabelTooLong,
    /// A zero byte, where C programs see the end of the name.
    Nul,
    /// A byte outside ASCII.
    NonAscii,
    /// Another byte that is not a letter, digit, hyphen, underscore or dot: space, `:`, `[`, `%`, `*` …
    Character,
    /// An IPv4 address in any notation that a resolver accepts (the last label is a number: decimal, octal, hex), or an
    /// IPv6 address with or without brackets and zone.
    IpLiteral,
    /// Written outside ASCII, and not a valid internationalised name.
    Internationalised,
}

impl NotAHostname {
    /// Short text for people.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "the name is empty",
            Self::TooLong => "the name is longer than 253 characters",
            Self::EmptyLabel => "the name has an empty label",
            Self::LabelTooLong => "a label is longer than 63 characters",
            Self::Nul => "the name has a zero byte in it",
            Self::NonAscii => "the name has characters outside ASCII",
            Self::Character => "the name has a character that hostnames do not have",
            Self::IpLiteral => "the name is an IP address",
            Self::Internationalised => "the name is not a valid internationalised name (UTS 46)",
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
    /// Canonicalises the bytes that a client sent.
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
            check_label(label, raw)?;
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

    /// True if each of its `xn--` labels is a valid A-label. Browsers and resolvers produce no others.
    pub fn has_valid_a_labels(&self) -> bool {
        !self.0.contains("xn--") || to_ascii(&self.0).is_ok_and(|same| same == *self.0)
    }

    /// The name, lower case, without a trailing dot.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the name's parents, nearest first: `a.b.c` yields `b.c`, `c`.
    pub fn parents(&self) -> impl Iterator<Item = &str> {
        let mut rest = self.as_str();
        std::iter::from_fn(move || {
            rest = rest.split_once('.')?.1;
            Some(rest)
        })
    }
}

/// Returns the ASCII form of a name in any script. It may still be invalid as a hostname.
fn to_ascii(name: &str) -> Result<std::borrow::Cow<'_, str>, NotAHostname> {
    idna::domain_to_ascii_cow(name.as_bytes(), idna::AsciiDenyList::EMPTY)
        .map_err(|_| NotAHostname::Internationalised)
}

fn check_label(label: &[u8], name: &[u8]) -> Result<(), NotAHostname> {
    if label.is_empty() {
        return Err(NotAHostname::EmptyLabel);
    }
    if !label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
        return Err(wrong_character(name));
    }
    if label.len() > MAX_LABEL {
        return Err(NotAHostname::LabelTooLong);
    }
    Ok(())
}

/// Returns the error for a name with a character that hostnames do not have.
fn wrong_character(name: &[u8]) -> NotAHostname {
    let bare = name.strip_prefix(b"[").and_then(|name| name.strip_suffix(b"]")).unwrap_or(name);
    let address = bare.split(|&b| b == b'%').next().and_then(|address| std::str::from_utf8(address).ok());
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()) {
        NotAHostname::IpLiteral
    } else if name.contains(&0) {
        NotAHostname::Nul
    } else if !name.is_ascii() {
        NotAHostname::NonAscii
    } else {
        NotAHostname::Character
    }
}

/// True if a last label makes the whole an IPv4 address to the resolvers that accept short, octal and hex forms
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

/// Parses a name written by an operator, in any script.
impl FromStr for Hostname {
    type Err = NotAHostname;
    fn from_str(s: &str) -> Result<Self, NotAHostname> {
        if s.is_ascii() {
            Self::canonicalize(s.as_bytes())
        } else {
            Self::canonicalize(to_ascii(s)?.as_bytes())
        }
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
    /// It sent none.
    Absent,
    /// It speaks a protocol in which no name is read.
    Unread,
    /// It sent something that is not a hostname.
    Invalid(NotAHostname),
    /// It sent this one.
    Valid(Hostname),
}

impl AskedName {
    /// Canonicalises the bytes that the client sent.
    pub fn from_bytes(raw: &[u8]) -> Self {
        match Hostname::canonicalize(raw) {
            Ok(name) => Self::Valid(name),
            Err(why) => Self::Invalid(why),
        }
    }
}

/// Displays as traces of flows have it.
impl fmt::Display for AskedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid(name) => name.fmt(f),
            Self::Invalid(why) => write!(f, "({})", why.as_str()),
            Self::Absent => f.write_str("(none)"),
            Self::Unread => f.write_str("(not read)"),
        }
    }
}

/// Pattern of a rule's names: one name, or every subdomain of one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Exactly this name.
    Exact(Hostname),
    /// `*.name`: subdomains at any depth, and not the name itself.
    Subdomains(Hostname),
}

impl HostPattern {
    /// True if the pattern covers the name.
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

/// Serialises as it displays.
impl Serialize for HostPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
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
    fn equivalent_spellings_are_equal() {
        for spelling in ["api.example.com", "API.Example.COM", "api.example.com.", "Api.example.com."] {
            assert_eq!(spelling.parse::<Hostname>().unwrap().as_str(), "api.example.com");
        }
        assert_eq!(
            "_dmarc.xn--bcher-kva.example".parse::<Hostname>().unwrap().as_str(),
            "_dmarc.xn--bcher-kva.example"
        );
        for spelling in ["foo-.Wild.example.org", "-foo.wild.example.org", "a.-.example", "---.example"] {
            assert_eq!(spelling.parse::<Hostname>().unwrap().as_str(), spelling.to_ascii_lowercase());
            assert!(
                "*.example.org".parse::<HostPattern>().is_ok() && spelling.parse::<HostPattern>().is_ok()
            );
        }
    }

    #[test]
    fn invalid_hostname_names_its_reason() {
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
            (b"example.com\0.evil.org", Nul),
            (b"example.com\0", Nul),
            (b"exa mple.com", Character),
            (b"example.com:443", Character),
            (b"[::1]", IpLiteral),
            (b"::ffff:10.0.0.1", IpLiteral),
            (b"[::ffff:127.1]", Character),
            (b"fe80::1%eth0", IpLiteral),
            (b"b\xc3\xbccher.example", NonAscii),
            (b"b\xfccher.example", NonAscii),
            ("example\u{3002}com".as_bytes(), NonAscii),
            ("\u{ff11}0.0.0.1".as_bytes(), NonAscii),
            (b"*.example.com", Character),
            (long_label.as_bytes(), LabelTooLong),
            (long_name.as_bytes(), TooLong),
            (b"10.0.0.1", IpLiteral),
            (b"10.1", IpLiteral),
            (b"0x7f.0.0.1", IpLiteral),
            (b"2130706433", IpLiteral),
            (b"0177.0.0.01", IpLiteral),
            (b"017700000001", IpLiteral),
            (b"127.1", IpLiteral),
            (b"0x7f.1", IpLiteral),
            (b"1.2.3.4.5", IpLiteral),
            (b"0x7f000001", IpLiteral),
            (b"a.0X", IpLiteral),
            (b"127.0.0.1.", IpLiteral),
        ];
        for (raw, why) in cases {
            assert_eq!(Hostname::canonicalize(raw), Err(*why), "{}", raw.escape_ascii());
        }
    }

    #[test]
    fn operators_may_use_unicode_names() {
        for (written, meant) in [
            ("bücher.example", "xn--bcher-kva.example"),
            ("BÜCHER.Example.", "xn--bcher-kva.example"),
            ("bu\u{308}cher.example", "xn--bcher-kva.example"),
            ("straße.example", "xn--strae-oqa.example"),
            ("пример.испытание", "xn--e1afmkfd.xn--80akhbyknj4f"),
            ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
            ("ｅｘａｍｐｌｅ.com", "example.com"),
        ] {
            assert_eq!(written.parse::<Hostname>().unwrap().as_str(), meant, "{written}");
            assert_eq!(Hostname::canonicalize(written.as_bytes()), Err(NotAHostname::NonAscii));
        }
        assert_eq!("*.bücher.example".parse::<HostPattern>().unwrap().to_string(), "*.xn--bcher-kva.example");
        for (written, why) in [
            ("１２７.0.0.1", NotAHostname::IpLiteral),
            ("bücher example", NotAHostname::Character),
            ("bü..example", NotAHostname::EmptyLabel),
            ("\u{200d}a.example", NotAHostname::Internationalised),
            ("\u{fffd}.example", NotAHostname::Internationalised),
            ("xn--zz\u{fc}.example", NotAHostname::Internationalised),
        ] {
            assert_eq!(written.parse::<Hostname>(), Err(why), "{written}");
        }
    }

    #[test]
    fn a_labels_are_validated() {
        let valid = |name: &str| Hostname::canonicalize(name.as_bytes()).unwrap().has_valid_a_labels();
        assert!(valid("example.com") && valid("xn--bcher-kva.example") && valid("XN--BCHER-KVA.example"));
        assert!(!valid("xn--zzzzzz99999.example") && !valid("a.xn--0.example"));
    }

    #[test]
    fn wildcard_covers_subdomains_not_apex() {
        let pattern: HostPattern = "*.Example.com".parse().unwrap();
        let covers = |name: &str| pattern.matches(&name.parse().unwrap());
        assert!(covers("a.example.com") && covers("a.b.example.com"));
        assert!(!covers("example.com") && !covers("aexample.com") && !covers("example.com.evil.org"));
        assert_eq!(pattern.to_string(), "*.example.com");
    }

    proptest! {
        #[test]
        fn canonical_form_is_idempotent(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(name) = Hostname::canonicalize(&raw) {
                prop_assert_eq!(Hostname::canonicalize(name.as_str().as_bytes()), Ok(name.clone()));
                prop_assert!(name.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }

        #[test]
        fn configured_names_are_sendable_by_clients(text in "\\PC{0,20}(\\.\\PC{1,20}){0,3}") {
            if let Ok(name) = text.parse::<Hostname>() {
                prop_assert_eq!(Hostname::canonicalize(name.as_str().as_bytes()), Ok(name));
            }
        }

        #[test]
        fn address_notations_are_no_hostnames(address: u32, form in 0..8_u8, dot in any::<bool>()) {
            let [a, b, c, d] = address.to_be_bytes();
            let low = address & 0xff_ffff;
            let mut text = match form {
                0 => format!("{a}.{b}.{c}.{d}"),
                1 => format!("0{a:o}.{b}.0x{c:x}.0{d:o}"),
                2 => format!("0x{address:X}"),
                3 => format!("{address}"),
                4 => format!("0{address:o}"),
                5 => format!("{a}.{low}"),
                6 => format!("{a}.0x{low:x}"),
                _ => format!("::ffff:{a}.{b}.{c}.{d}"),
            };
            if dot { text.push('.'); }
            prop_assert_eq!(Hostname::canonicalize(text.as_bytes()), Err(NotAHostname::IpLiteral), "{}", text);
        }

        #[test]
        fn case_and_one_trailing_dot_never_matter(name in "[a-z0-9_-]{1,10}(\\.[a-z0-9_-]{1,10}){0,4}\\.[a-z]{2,5}", dot in any::<bool>()) {
            let mut shouted = name.to_ascii_uppercase();
            if dot { shouted.push('.'); }
            let heard = shouted.parse::<Hostname>().unwrap();
            prop_assert_eq!(heard.as_str(), name.as_str());
        }
    }
}
