//! From which keys on DNSSEC signatures are believed.

use hickory_resolver::proto::dnssec::rdata::DNSKEY;
use hickory_resolver::proto::dnssec::{Proof, TrustAnchors};
use hickory_resolver::proto::rr::{Name, Record};
use hickory_resolver::proto::serialize::txt::trust_anchor::{Entry, Parser};

/// All that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchors {
    /// The keys of the DNS root, as Egret carries them.
    pub root: bool,
    /// These.
    pub given: Vec<Anchor>,
}

/// One key of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    zone: Name,
    key: DNSKEY,
}

impl Anchor {
    /// The keys of a file of DNSKEY records, one at least; else what is wrong with it.
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

impl Anchors {
    pub(super) fn store(&self) -> TrustAnchors {
        let mut store = if self.root { TrustAnchors::default() } else { TrustAnchors::empty() };
        for Anchor { zone, key } in &self.given {
            store.insert_with_name(key.public_key(), zone.into());
        }
        store
    }

    /// Whether a record that was validated against them counts. One that is provably unsigned does, but not below a key
    /// that was given for a zone: whoever could say in the name of its parent that the zone is not signed would make
    /// that key worthless.
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
    fn a_file_that_is_none_of_keys_is_refused_with_what_it_should_be() {
        for (content, why) in [
            (&b""[..], "there is none in it"),
            (b"; nothing\n", "there is none in it"),
            (b"example.org. IN DS 1 13 2 00\n", "as `dig"),
            (b"example.org. IN DNSKEY 257 3\n", "as `dig"),
            (b"example.org. IN DNSKEY 257 3 13 no*base64\n", "as `dig"),
            (b"\xff\xfe", "in text"),
        ] {
            let said = Anchor::parse(content).unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }
}
