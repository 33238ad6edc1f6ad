//! Names in findings.

use crate::interface::Interface;

pub(super) fn family_name(v4: bool) -> &'static str {
    if v4 { "IPv4" } else { "IPv6" }
}

/// Interfaces, comma-separated.
pub(super) fn names(interfaces: &[Interface]) -> String {
    interfaces.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
