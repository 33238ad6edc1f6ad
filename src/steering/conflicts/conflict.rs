//! A conflict between configuration and machine.

use ipnet::IpNet;
use std::fmt;

/// Severity of a conflict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConflictSeverity {
    /// Steering must not be put in place: it would cut the machine off from hosts that it needs.
    Refused,
    /// It can be put in place but does not work.
    Broken,
    /// It may work but is probably a mistake.
    Doubtful,
}

/// A conflict, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Its severity.
    pub gravity: ConflictSeverity,
    /// The finding, with names and addresses.
    pub found: String,
    /// Its consequence.
    pub why: &'static str,
    /// Its remedy.
    pub fix: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.found, self.why, self.fix)
    }
}

/// A pool that contains these addresses of others, if there are any.
pub(super) fn of_others(
    gravity: ConflictSeverity,
    pool: IpNet,
    what: &str,
    addresses: &[String],
) -> Option<Conflict> {
    (!addresses.is_empty()).then(|| Conflict {
        gravity,
        found: format!("pool addresses {pool} include {what}: {}", some(addresses)),
        why: "pool addresses are local to this machine, so it could not reach those hosts any more",
        fix: "remove them from [[pool]] addresses".to_owned(),
    })
}

/// The first few elements of a list.
pub(super) fn some<T: AsRef<str>>(all: &[T]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<_> = all.iter().take(SHOWN).map(AsRef::as_ref).collect();
    let more = all.len().saturating_sub(SHOWN);
    shown.join(", ") + &if more > 0 { format!(" and {more} more") } else { String::new() }
}
