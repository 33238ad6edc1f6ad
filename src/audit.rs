//! Changes to the gateway, and traces of flows, for the audit log: one [`AuditRecord`], one line. docs/audit.md explains the keys.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

/// A change, made or attempted.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRecord {
    /// Time at which the result was known, RFC 3339 in UTC with microseconds.
    #[serde(serialize_with = "crate::clock::microseconds")]
    pub time: jiff::Timestamp,
    /// Kind of change.
    pub change: What,
    /// Originator.
    #[serde(flatten)]
    pub by: Originator,
    /// Its object, if it is a single one: a source address, a file; `null` where it is the configuration.
    pub subject: Option<String>,
    /// Its result.
    pub result: Verdict,
    /// Reason for a refusal; `null` if it was done.
    pub why: Option<String>,
    /// Hash of the configuration in force before.
    pub config_before: Option<Arc<str>>,
    /// Hash of the one in force after: the same unless it was replaced.
    pub config_after: Arc<str>,
    /// Difference between the two; `null` if no other configuration came into force. For a candidate that was loaded:
    /// its difference from the configuration in force.
    pub difference: Option<ConfigDifference>,
    /// Configuration hash of the candidate that was loaded, changed or dropped.
    pub candidate: Option<Arc<str>>,
    /// Percentage of clients that it is enforced for from now on.
    pub percent: Option<u8>,
    /// Live flows that were reset, because the configuration no longer allows them.
    pub revoked: u64,
}

macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Identifier in the log.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

words! {
    /// Kind of change.
    What {
        /// The gateway started with a configuration.
        Start = "start",
        /// The gateway started with the last good configuration, because its files were refused or it could not start with them: `subject` says why.
        StartFallback = "start_fallback",
        /// Reload the configuration.
        Reload = "reload",
        /// Give a source address no new flows.
        Drain = "drain",
        /// End a drain.
        Undrain = "undrain",
        /// Evaluate a candidate beside the policy in force: `subject` is its file.
        CandidateLoad = "candidate_load",
        /// Enforce the candidate for another share of the clients.
        CandidateShare = "candidate_share",
        /// Put the candidate into force.
        CandidatePromote = "candidate_promote",
        /// Drop the candidate.
        CandidateDrop = "candidate_drop",
        /// A canary was rolled back, because it denied too much.
        CandidateRollback = "candidate_fall_back",
        /// Show an operator the steps of flows, with their clients and names: `subject` says of which.
        Trace = "trace",
        /// A tenant's `monitor_until` has passed: `subject` is the tenant, which now enforces.
        MonitorEnd = "monitor_end",
        /// An order, or a query for the steps of a trace, without permission: `subject` is its path.
        Forbidden = "forbidden",
    }
}

words! {
    /// Result of a change.
    Verdict {
        /// It was done.
        Done = "done",
        /// It was not done: `why` gives the reason.
        Refused = "refused",
    }
}

/// Originator of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Originator {
    /// A process, over the control socket; with the credentials that the kernel reports.
    Control(SocketPeer),
    /// A sender of SIGHUP: root, or the gateway's own user. The kernel does not report which.
    Signal,
    /// A change of a watched file.
    Watch,
    /// The gateway itself.
    Gateway,
}

/// The process at the other end of the control socket (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SocketPeer {
    /// Its user when it connected; `null` if the kernel did not report it.
    pub uid: Option<u32>,
    /// Its primary group at that time.
    pub gid: Option<u32>,
    /// Its process ID, as the gateway sees it.
    pub pid: Option<i32>,
}

impl fmt::Display for SocketPeer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.uid {
            Some(uid) => write!(f, "uid {uid}")?,
            None => f.write_str("unknown")?,
        }
        if let Some(gid) = self.gid {
            write!(f, ", gid {gid}")?;
        }
        if let Some(pid) = self.pid {
            write!(f, ", pid {pid}")?;
        }
        Ok(())
    }
}

/// Difference between two configurations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDifference {
    /// By name.
    pub tenants: NamedItems,
    /// By name.
    pub pools: NamedItems,
    /// Rules of tenants in both. A rule is identified by its content, without its hosts and its name.
    pub rules: ItemCounts,
    /// Hosts of such tenants' rules, each once for each effect.
    pub names: ItemCounts,
    /// Tables that occur once and differ, as `[policy]`.
    pub settings: Vec<String>,
    /// Such tables whose difference takes effect at the next restart.
    pub restart: Vec<String>,
}

/// Differences of named items.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedItems {
    /// Number of new ones.
    pub added: usize,
    /// Number of removed ones.
    pub removed: usize,
    /// Number of those with the same name and different content.
    pub changed: usize,
    /// The first of them, marked `+`, `-` and `~`.
    pub first: Vec<String>,
}

/// Differences of items without names, or with too many to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemCounts {
    /// Number of new ones.
    pub added: usize,
    /// Number of removed ones.
    pub removed: usize,
}

impl AddAssign for ItemCounts {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.removed += more.removed;
    }
}

impl NamedItems {
    /// Most names that are listed.
    pub const MOST: usize = 20;
}

impl fmt::Display for ConfigDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        for (what, named) in [("tenants", &self.tenants), ("pools", &self.pools)] {
            let NamedItems { added, removed, changed, first } = named;
            let total = added + removed + changed;
            if total > 0 {
                let more = if total > first.len() { " …" } else { "" };
                parts.push(format!("{what} +{added} -{removed} ~{changed} ({}{more})", first.join(" ")));
            }
        }
        for (what, ItemCounts { added, removed }) in [("rules", self.rules), ("names", self.names)] {
            if added + removed > 0 {
                parts.push(format!("{what} +{added} -{removed}"));
            }
        }
        parts.extend(self.settings.iter().map(|header| format!("{header} changed")));
        parts.extend(self.restart.iter().map(|header| format!("{header} changes at the next restart")));
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn change() -> AuditRecord {
        AuditRecord {
            time: jiff::Timestamp::from_microsecond(1_764_500_000_250_000).unwrap(),
            change: What::Drain,
            by: Originator::Control(SocketPeer { uid: Some(0), gid: Some(0), pid: Some(4711) }),
            subject: Some("203.0.113.17".into()),
            result: Verdict::Done,
            why: None,
            config_before: Some("00c0ffee00c0ffee".into()),
            config_after: "00c0ffee00c0ffee".into(),
            difference: None,
            candidate: None,
            percent: None,
            revoked: 0,
        }
    }

    #[test]
    fn audit_entry_is_one_json_line() {
        assert_eq!(
            serde_json::to_string(&change()).unwrap(),
            "{\"time\":\"2025-11-30T10:53:20.250000Z\",\"change\":\"drain\",\"by\":\"control\",\"uid\":0,\"gid\":0,\
             \"pid\":4711,\"subject\":\"203.0.113.17\",\"result\":\"done\",\"why\":null,\
             \"config_before\":\"00c0ffee00c0ffee\",\"config_after\":\"00c0ffee00c0ffee\",\"difference\":null,\
             \"candidate\":null,\"percent\":null,\"revoked\":0}"
        );
        let watched = AuditRecord { by: Originator::Watch, ..change() };
        assert_eq!(serde_json::to_value(&watched).unwrap()["by"], "watch");
    }

    #[test]
    fn audit_reference_is_complete() {
        let page = include_str!("../docs/audit.md");
        let stated: BTreeSet<_> =
            page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect();
        let line = serde_json::to_value(change()).unwrap();
        let keys = line.as_object().unwrap().keys().map(String::as_str);
        let words = What::ALL.iter().map(|what| what.as_str());
        assert_eq!(stated, keys.chain(words).collect());
    }

    #[test]
    fn difference_is_one_line() {
        assert_eq!(ConfigDifference::default().to_string(), "nothing changed");
        let tenants =
            NamedItems { added: 1, removed: 0, changed: 30, first: vec!["+acme".into(), "~beta".into()] };
        let names = ItemCounts { added: 12, removed: 3 };
        let restart = vec!["[gateway]".into()];
        let difference = ConfigDifference { tenants, names, restart, ..ConfigDifference::default() };
        assert_eq!(
            difference.to_string(),
            "tenants +1 -0 ~30 (+acme ~beta …), names +12 -3, [gateway] changes at the next restart"
        );
    }
}
