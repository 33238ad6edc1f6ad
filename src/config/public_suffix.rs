//! Breadth of wildcards, by the public suffix list.

use crate::hostname::HostPattern;
use psl::{List, Psl as _, Type};

pub(super) const HELP: &str =
    "it would cover names of everybody who registers there; name the domain that you mean";
pub(super) const SHARED_HELP: &str =
    "anybody can get a name there and receive what is sent out; name the subdomains if they are known";

/// Ownership of the names that a pattern covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Breadth {
    /// Names of one owner.
    Owned,
    /// Names of a service that hands out subdomains, such as storage buckets: the list's private section.
    Shared,
    /// Names of a registry, such as `*.com`: the list's ICANN section.
    Registry,
}

pub(super) fn breadth(pattern: &HostPattern) -> Breadth {
    let HostPattern::Subdomains(apex) = pattern else { return Breadth::Owned };
    // Under a rule like `*.ck` each child of the apex is a suffix, not the apex.
    let child = format!("any-child.{apex}");
    let is = |name: &str, wanted| {
        List.suffix(name.as_bytes())
            .is_some_and(|suffix| suffix.as_bytes().len() == name.len() && suffix.typ() == Some(wanted))
    };
    let either = |wanted| is(apex.as_str(), wanted) || is(&child, wanted);
    if either(Type::Icann) {
        Breadth::Registry
    } else if either(Type::Private) {
        Breadth::Shared
    } else {
        Breadth::Owned
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_over_public_suffixes_are_classified() {
        for (pattern, expected) in [
            ("*.com", Breadth::Registry),
            ("*.co.uk", Breadth::Registry),
            ("*.ck", Breadth::Registry),
            ("*.xn--p1ai", Breadth::Registry),
            ("*.github.io", Breadth::Shared),
            ("*.s3.amazonaws.com", Breadth::Shared),
            ("*.example.com", Breadth::Owned),
            ("*.corp", Breadth::Owned),
            ("com", Breadth::Owned),
        ] {
            assert_eq!(breadth(&pattern.parse().unwrap()), expected, "{pattern}");
        }
    }
}
