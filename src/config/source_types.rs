//! Kinds of a pool's single addresses.

use super::diagnostic::Diagnostics;
use super::repeats::{self, Repeat};
use super::schema::Describe;
use super::value::Value;
use super::value_types::{ListItem, Placed, ValueType};
use crate::addr::SourceAddr;
use std::net::IpAddr;

/// A single address.
pub(super) struct SourceType;

impl Describe for SourceType {
    fn describe(&self) -> String {
        "address: `\"203.0.113.17\"`".to_owned()
    }
}

impl ValueType for SourceType {
    type Value = SourceAddr;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<SourceAddr> {
        let read = value.text().and_then(address).map(SourceAddr::new);
        read.or_else(|| {
            value.wrong(out, "not an address", "write it as in \"203.0.113.17\", without a prefix")
        })
    }
}

impl ListItem for SourceType {
    fn repeats(list: &[&SourceAddr]) -> Vec<Repeat> {
        repeats::equal(list)
    }
}

/// Pairs of a source address and the public address that it is mapped to.
pub(super) struct MappedSourceType;

impl Describe for MappedSourceType {
    fn describe(&self) -> String {
        "table of addresses: `{ \"10.0.0.20\" = \"52.1.2.3\" }`".to_owned()
    }
}

impl ValueType for MappedSourceType {
    type Value = Vec<Placed<(SourceAddr, IpAddr)>>;
    fn read(&self, value: Value<'_>, out: &mut Diagnostics) -> Option<Self::Value> {
        let Some(entries) = value.entries() else {
            return value.wrong(out, "not a table", format!("it takes a {}", self.describe()));
        };
        let mut read = Vec::new();
        for (source, public) in entries {
            let at = public.place();
            let mapped = public.text().and_then(address);
            match (address(source), mapped) {
                (None, _) => {
                    out.error(
                        at,
                        format!("`public`: {source:?} is not an address"),
                        "write a source address of the pool before the `=`",
                    );
                }
                (_, None) => {
                    public.wrong::<()>(out, "not an address", "write the public address, as in \"52.1.2.3\"");
                }
                (Some(source), Some(mapped)) => {
                    read.push(Placed { value: (SourceAddr::new(source), mapped), at });
                }
            }
        }
        Some(read)
    }
}

/// Parses an address. IPv4-mapped addresses are refused: they are IPv4, and never written so on purpose.
fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok().filter(|address: &IpAddr| address.to_canonical() == *address)
}
