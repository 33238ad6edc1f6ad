//! DNSSEC trust anchors.

use hickory_resolver::proto::dnssec::rdata::DNSKEY;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::{Name, Record};
use hickory_resolver::proto::serialize::txt::trust_anchor::{Entry, Parser};
use serde::{Serialize, Serializer};

/// The trust anchors of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DnssecAnchors {
    /// True to trust the keys of the DNS root that are built into Egret.
    pub root: bool,
    /// Configured keys.
    pub given: Vec<ZoneKey>,
}

/// A key of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ZoneKey {
    zone: Name,
    key: DNSKEY,
}

/// Serialises as zone and key in the notation of zone files.
impl Serialize for ZoneKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{} {}", self.zone, self.key))
    }
}

impl ZoneKey {
    /// Parses a file of DNSKEY records with at least one key; else returns the error.
    pub fn parse(content: &[u8]) -> Result<Vec<Self>, String> {
        let wanted = "as `dig +noall +answer DNSKEY ZONE` prints them, one a line";
        let text =
            std::str::from_utf8(content).map_err(|_| format!("write the records in text, {wanted}"))?;
        let entries =
            Parser::new(text).parse().map_err(|why| format!("write the records {wanted} ({why})"))?;
        let of = |entry| {
            let Entry::DNSKEY(record) = entry else { return None };
            let mut zone = record.name().clone();
            zone.set_fqdn(true);
            Some(Self { zone, key: record.data().clone() })
        };
        let anchors: Vec<_> = entries.into_iter().filter_map(of).collect();
        if anchors.is_empty() {
            return Err(format!("there is none in it; write the records {wanted}"));
        }
        Ok(anchors)
    }
}

impl DnssecAnchors {
    pub(super) fn store(&self) -> TrustAnchors {
        let mut store = if self.root { TrustAnchors::default() } else { TrustAnchors::empty() };
        for ZoneKey { zone, key } in &self.given {
            store.insert_with_name(key.public_key(), zone.into());
        }
        store
    }

    /// True if a record that was validated against these anchors is acceptable. A provably unsigned one is, but not
    /// below a key that was configured for a zone: otherwise anybody who can declare the zone unsigned in its parent's
    /// name would defeat that key.
    pub(super) fn prove(&self, record: &Record) -> bool {
        match record.proof {
            Proof::Secure => true,
            Proof::Insecure => {
                !self.given.iter().any(|anchor| !anchor.zone.is_root() && anchor.zone.zone_of(&record.name))
            }
            Proof::Bogus | Proof::Indeterminate => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_key_file_names_expected_format() {
        for (content, why) in [
            (&b""[..], "there is none in it"),
            (b"; nothing\n", "there is none in it"),
            (b"example.org. IN DS 1 13 2 00\n", "as `dig"),
            (b"example.org. IN DNSKEY 257 3\n", "as `dig"),
            (b"example.org. IN DNSKEY 257 3 13 no*base64\n", "as `dig"),
            (b"\xff\xfe", "in text"),
        ] {
            let said = ZoneKey::parse(content).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
