//! What changes the gateway, as the audit log tells it: one [`Change`], one line. docs/audit.md explains the keys.

use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::ops::AddAssign;
use std::sync::Arc;

/// Somebody changed something, or wanted to.
#[derive(Debug, Clone, Serialize)]
pub struct Change {
    /// When the result was known, RFC 3339 in UTC with microseconds.
    #[serde(serialize_with = "crate::clock::microseconds")]
    pub time: jiff::Timestamp,
    /// What was to be done.
    pub change: What,
    /// Who wanted it.
    #[serde(flatten)]
    pub by: By,
    /// To what, where that is one thing: a source address, a file; `null` where it is the configuration.
    pub subject: Option<String>,
    /// Whether it was done.
    pub result: Verdict,
    /// Why not; `null` if it was.
    pub why: Option<String>,
    /// The hash of the configuration in force before.
    pub config_before: Option<Arc<str>>,
    /// And after: the same unless it was exchanged.
    pub config_after: Arc<str>,
    /// How the two differ; `null` if no other configuration came into force. With a candidate that was loaded: how that
    /// differs from the configuration in force.
    pub difference: Option<Difference>,
    /// The hash that the configuration of the candidate will have that was loaded, changed or dropped.
    pub candidate: Option<Arc<str>>,
    /// The share of clients that it is enforced for from now on.
    pub percent: Option<u8>,
    /// Live flows that were reset, because the configuration does not allow them any more.
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

            /// The word in the log.
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
    /// What was to be done.
    What {
        /// The gateway came up with a configuration.
        Start = "start",
        /// The gateway came up with the last good configuration, because its files were refused: `subject` says why.
        StartFallback = "start_fallback",
        /// The configuration was to be read anew.
        Reload = "reload",
        /// A source address was to take no new flows.
        Drain = "drain",
        /// A drain was to end.
        Undrain = "undrain",
        /// A candidate was to be judged beside the policy in force: `subject` is its file.
        CandidateLoad = "candidate_load",
        /// The candidate was to be enforced for another share of the clients.
        CandidateShare = "candidate_share",
        /// The candidate was to come into force.
        CandidatePromote = "candidate_promote",
        /// The candidate was to be judged no longer.
        CandidateDrop = "candidate_drop",
        /// A candidate that was enforced for a share of clients denied too much, and is enforced no longer.
        CandidateFallBack = "candidate_fall_back",
        /// A tenant's `monitor_until` came: `subject` is the tenant, which enforces.
        MonitorEnd = "monitor_end",
        /// Somebody gave an order who may not: `subject` is the order.
        Forbidden = "forbidden",
    }
}

words! {
    /// Whether it was done.
    Verdict {
        /// Yes.
        Done = "done",
        /// No: `why` says why.
        Refused = "refused",
    }
}

/// Who wanted a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum By {
    /// A process, over the control socket; by the credentials that the kernel vouches for.
    Control(Peer),
    /// Whoever sent SIGHUP: root, or the gateway's own user. The kernel does not say which.
    Signal,
    /// Whoever changed a watched file.
    Watch,
    /// The gateway itself.
    Gateway,
}

/// The process at the other end of the control socket (SO_PEERCRED).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Peer {
    /// Its user when it connected; `null` if the kernel did not say.
    pub uid: Option<u32>,
    /// Its primary group then.
    pub gid: Option<u32>,
    /// Its number, as the gateway sees it.
    pub pid: Option<i32>,
}

/// How one configuration differs from another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// By name.
    pub tenants: Named,
    /// By name.
    pub pools: Named,
    /// Rules of tenants that were there and are; a rule is what it says, apart from its hosts, and not what it is called.
    pub rules: Counted,
    /// The hosts of such tenants' rules, each once for each effect.
    pub names: Counted,
    /// The tables that stand once and are different, as `[policy]`.
    pub settings: Vec<String>,
    /// Such tables whose difference takes effect at the next restart.
    pub restart: Vec<String>,
}

/// Things that have a name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// How many are new.
    pub added: usize,
    /// How many are gone.
    pub removed: usize,
    /// How many are called as before and are different.
    pub changed: usize,
    /// The first of them, marked `+`, `-` and `~`.
    pub first: Vec<String>,
}

/// Things that have none, or too many.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// How many are new.
    pub added: usize,
    /// How many are gone.
    pub removed: usize,
}

impl AddAssign for Counted {
    fn add_assign(&mut self, more: Self) {
        self.added += more.added;
        self.removed += more.removed;
    }
}

impl Named {
    /// So many are named one by one.
    pub const MOST: usize = 20;
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::default() {
            return f.write_str("nothing changed");
        }
        let mut parts = Vec::new();
        for (what, named) in [("tenants", &self.tenants), ("pools", &self.pools)] {
            let Named { added, removed, changed, first } = named;
            let total = added + removed + changed;
            if total > 0 {
                let more = if total > first.len() { " …" } else { "" };
                parts.push(format!("{what} +{added} -{removed} ~{changed} ({}{more})", first.join(" ")));
            }
        }
        for (what, Counted { added, removed }) in [("rules", self.rules), ("names", self.names)] {
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

    fn change() -> Change {
        Change {
            time: jiff::Timestamp::from_microsecond(1_764_500_000_250_000).unwrap(),
            change: What::Drain,
            by: By::Control(Peer { uid: Some(0), gid: Some(0), pid: Some(4711) }),
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
    fn a_change_is_one_flat_line_of_json() {
        assert_eq!(
            serde_json::to_string(&change()).unwrap(),
            "{\"time\":\"2025-11-30T10:53:20.250000Z\",\"change\":\"drain\",\"by\":\"control\",\"uid\":0,\"gid\":0,\
             \"pid\":4711,\"subject\":\"203.0.113.17\",\"result\":\"done\",\"why\":null,\
             \"config_before\":\"00c0ffee00c0ffee\",\"config_after\":\"00c0ffee00c0ffee\",\"difference\":null,\
             \"candidate\":null,\"percent\":null,\"revoked\":0}"
        );
        let watched = Change { by: By::Watch, ..change() };
        assert_eq!(serde_json::to_value(&watched).unwrap()["by"], "watch");
    }

    #[test]
    fn the_doc_page_has_every_key_and_every_word() {
        let page = include_str!("../docs/audit.md");
        let stated: BTreeSet<_> =
            page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect();
        let line = serde_json::to_value(change()).unwrap();
        let keys = line.as_object().unwrap().keys().map(String::as_str);
        let words = What::ALL.iter().map(|what| what.as_str());
        assert_eq!(stated, keys.chain(words).collect());
    }

    #[test]
    fn a_difference_is_said_in_a_line() {
        assert_eq!(Difference::default().to_string(), "nothing changed");
        let tenants =
            Named { added: 1, removed: 0, changed: 30, first: vec!["+acme".into(), "~beta".into()] };
        let names = Counted { added: 12, removed: 3 };
        let restart = vec!["[gateway]".into()];
        let difference = Difference { tenants, names, restart, ..Difference::default() };
        assert_eq!(
            difference.to_string(),
            "tenants +1 -0 ~30 (+acme ~beta …), names +12 -3, [gateway] changes at the next restart"
        );
    }
}
