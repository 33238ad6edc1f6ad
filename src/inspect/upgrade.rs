//! Upgrades that a request offers (RFC 9110 §7.8), and which of them reach the server.
//!
//! Servers parse the list leniently: some ignore white space within a name, others strip bytes outside ASCII around it. So
//! an offer passes only in the one spelling that every server reads alike.

use super::protocol_detect::is_token;
use httparse::Header;

/// Upgrade that a request offers. Of several the greatest counts, because a server may accept any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Upgrade {
    No,
    /// WebSocket, which asks for no further name.
    WebSocket,
    /// Another version of HTTP, or TLS (RFC 2817), where later names could not be judged. Clients do not depend on such
    /// an offer.
    Unjudged,
}

/// Starts of protocols that are [`Upgrade::Unjudged`].
const UNJUDGED: [&str; 3] = ["h2", "http/", "tls/"];

impl Upgrade {
    /// Returns the upgrade that the headers offer. One to any other protocol is an error: names in it could not be judged,
    /// and a client may depend on it.
    pub(super) fn of(headers: &[Header<'_>]) -> Result<Self, &'static str> {
        let offers = headers.iter().filter(|header| header.name.eq_ignore_ascii_case("upgrade"));
        let mut protocols = offers.flat_map(|offer| offer.value.split(|&b| b == b','));
        protocols.try_fold(Self::No, |offered, protocol| Ok(offered.max(Self::to(protocol.trim_ascii())?)))
    }

    fn to(protocol: &[u8]) -> Result<Self, &'static str> {
        let starts_with = |start: &&str| {
            protocol.get(..start.len()).is_some_and(|word| word.eq_ignore_ascii_case(start.as_bytes()))
        };
        if protocol.eq_ignore_ascii_case(b"websocket") {
            Ok(Self::WebSocket)
        } else if protocol.is_empty() || is_protocol(protocol) && UNJUDGED.iter().any(starts_with) {
            Ok(Self::Unjudged)
        } else {
            Err("an upgrade to something other than WebSocket")
        }
    }
}

/// True for `name` and `name/version`.
fn is_protocol(protocol: &[u8]) -> bool {
    let is_word = |word: &[u8]| !word.is_empty() && word.iter().copied().all(is_token);
    protocol.splitn(2, |&b| b == b'/').all(is_word)
}

/// Header fields that offer an upgrade (RFC 9110 §7.8, RFC 7540 §3.2.1), with meaningless names of the same length.
const OFFERS: [(&[u8], &[u8]); 2] = [(b"upgrade", b"Ignored"), (b"http2-settings", b"Ignored-Header")];

/// Renames the upgrade fields of a complete head, also where `Connection` lists them: a server then ignores them, and a
/// proxy removes them.
pub(super) fn withhold(head: &mut [u8]) {
    for line in head.split_mut(|&b| b == b'\n').skip(1) {
        let Some(colon) = line.iter().position(|&b| b == b':') else { continue };
        let (name, value) = line.split_at_mut(colon);
        if name.eq_ignore_ascii_case(b"connection") {
            for option in value[1..].split_mut(|&b| b == b',') {
                let start = option.len() - option.trim_ascii_start().len();
                let length = option.trim_ascii().len();
                rename(&mut option[start..start + length]);
            }
        } else {
            rename(name);
        }
    }
}

fn rename(name: &mut [u8]) {
    if let Some((_, other)) = OFFERS.iter().find(|(offer, _)| name.eq_ignore_ascii_case(offer)) {
        name.copy_from_slice(other);
    }
}
